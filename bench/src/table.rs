//! Results as a table and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// A tool on a pair.
#[derive(Clone)]
pub struct Row {
    pub pair: String,
    pub tool: String,
    pub threads: usize,
    pub bytes: u64,
    pub time: Duration,
}

/// The tool that others are compared with.
const BASELINE: &str = "bsdiff + bzip2 -6";

impl Row {
    /// The baseline of the same pair and threads.
    fn baseline<'a>(&self, rows: &'a [Row]) -> Option<&'a Row> {
        rows.iter().find(|row| row.tool == BASELINE && row.pair == self.pair && row.threads == self.threads)
    }

    /// Size as a part of the baseline's, and how many times as fast.
    #[expect(clippy::cast_precision_loss, reason = "ratios are shown with two digits")]
    fn ratios(&self, rows: &[Row]) -> Option<(f64, f64)> {
        let base = self.baseline(rows)?;
        let size = self.bytes as f64 / (base.bytes.max(1)) as f64;
        Some((size, base.time.as_secs_f64() / self.time.as_secs_f64().max(1e-6)))
    }
}

/// The sums of each tool and number of cores over all pairs.
pub fn totals(rows: &[Row]) -> Vec<Row> {
    let mut totals: Vec<Row> = Vec::new();
    for row in rows {
        match totals.iter_mut().find(|total| total.tool == row.tool && total.threads == row.threads) {
            Some(total) => (total.bytes, total.time) = (total.bytes + row.bytes, total.time + row.time),
            None => totals.push(Row { pair: "all".into(), ..row.clone() }),
        }
    }
    totals
}

/// Geometric means of size and speed over the pairs, for the tool and cores of `total`.
fn means(total: &Row, rows: &[Row]) -> (f64, f64) {
    let alike = rows.iter().filter(|row| row.tool == total.tool && row.threads == total.threads);
    let ratios: Vec<(f64, f64)> = alike.filter_map(|row| row.ratios(rows)).collect();
    let mean = |logs: f64| (logs / f64::from(u32::try_from(ratios.len()).unwrap_or(u32::MAX))).exp();
    (mean(ratios.iter().map(|ratio| ratio.0.ln()).sum()), mean(ratios.iter().map(|ratio| ratio.1.ln()).sum()))
}

/// A table for people; size and speed are relative to bsdiff + bzip2.
pub fn markdown(rows: &[Row]) -> String {
    let totals = totals(rows);
    let mut text = lines(rows) + &lines_of(&totals);
    text.push_str("\n| geometric means | cores | size | speed |\n|---|--:|--:|--:|\n");
    for total in &totals {
        let (size, speed) = means(total, rows);
        let _ = writeln!(text, "| {} | {} | {size:.3} | {speed:.1}× |", total.tool, total.threads);
    }
    text
}

fn lines(rows: &[Row]) -> String {
    let mut text = String::from("| pair | tool | cores | bytes | size | seconds | speed |\n");
    text.push_str("|---|---|--:|--:|--:|--:|--:|\n");
    text + &lines_of(rows)
}

fn lines_of(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let (size, speed) = row.ratios(rows).unwrap_or((f64::NAN, f64::NAN));
        let (pair, tool, threads, bytes) = (&row.pair, &row.tool, row.threads, row.bytes);
        let seconds = row.time.as_secs_f64();
        let _ = writeln!(
            text,
            "| {pair} | {tool} | {threads} | {bytes} | {size:.2} | {seconds:.2} | {speed:.1}× |"
        );
    }
    text
}

/// The same for programs.
pub fn json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            let ratios = row.ratios(rows);
            json!({
                "pair": row.pair,
                "tool": row.tool,
                "cores": row.threads,
                "bytes": row.bytes,
                "seconds": row.time.as_secs_f64(),
                "size_ratio": ratios.map(|ratios| ratios.0),
                "speed_ratio": ratios.map(|ratios| ratios.1),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_pair_and_cores() {
        let row = |tool: &str, threads, bytes, seconds| Row {
            pair: "a → b".into(),
            tool: tool.into(),
            threads,
            bytes,
            time: Duration::from_secs(seconds),
        };
        let rows = [row("x", 1, 50, 2), row(BASELINE, 2, 10, 1), row(BASELINE, 1, 100, 10)];
        assert!(markdown(&rows).contains("| a → b | x | 1 | 50 | 0.50 | 2.00 | 5.0× |"));
        assert_eq!(json(&rows)[1]["size_ratio"], 1.0);
    }

    #[test]
    fn totals_and_means_are_over_the_pairs() {
        let row = |pair: &str, tool: &str, bytes| Row {
            pair: pair.into(),
            tool: tool.into(),
            threads: 1,
            bytes,
            time: Duration::from_secs(bytes),
        };
        let rows = [row("a", BASELINE, 10), row("b", BASELINE, 90), row("a", "x", 5), row("b", "x", 180)];
        let text = markdown(&rows);
        assert!(text.contains("| all | x | 1 | 185 | 1.85 | 185.00 | 0.5× |"), "{text}");
        assert!(text.contains("| x | 1 | 1.000 | 1.0× |"), "{text}");
    }
}
