//! Results as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use dimg::format::Share;
use serde_json::{Value, json};

use crate::classes::Class;

/// What a tool took and made.
#[derive(Clone)]
pub struct Measure {
    pub tool: String,
    pub bytes: u64,
    pub time: Duration,
    /// Of all processors: other work on the machine changes it little.
    pub processor: Duration,
    /// Own memory at most, mapped files apart, in bytes, where it was measured.
    pub memory: Option<u64>,
}

/// A tool on a pair.
#[derive(Clone)]
pub struct Row {
    pub pair: String,
    pub threads: usize,
    pub measure: Measure,
}

impl Measure {
    /// Sums, and the larger memory.
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.time += other.time;
        self.processor += other.processor;
        self.memory = self.memory.max(other.memory);
    }
}

/// The tool that others are compared with.
pub const BASELINE: &str = "bsdiff + bzip2 -6";

impl Row {
    /// The baseline of the same pair and threads.
    fn baseline<'a>(&self, rows: &'a [Row]) -> Option<&'a Row> {
        rows.iter()
            .find(|row| row.measure.tool == BASELINE && row.pair == self.pair && row.threads == self.threads)
    }

    /// Size as a part of the baseline's, and how many times as fast; none where that has nothing to do.
    #[expect(clippy::cast_precision_loss, reason = "ratios are shown with two digits")]
    fn ratios(&self, rows: &[Row]) -> Option<(f64, f64)> {
        let base = self.baseline(rows).filter(|base| base.measure.bytes > 0)?;
        let size = self.measure.bytes as f64 / base.measure.bytes as f64;
        Some((size, base.measure.time.as_secs_f64() / self.measure.time.as_secs_f64().max(1e-6)))
    }
}

/// The sums of each tool and number of cores over all pairs.
pub fn totals(rows: &[Row]) -> Vec<Row> {
    let mut totals: Vec<Row> = Vec::new();
    for row in rows {
        match totals
            .iter_mut()
            .find(|total| total.measure.tool == row.measure.tool && total.threads == row.threads)
        {
            Some(total) => total.measure.add(&row.measure),
            None => totals.push(Row { pair: "all".into(), ..row.clone() }),
        }
    }
    totals
}

/// Geometric means of size and speed over the pairs, for the tool and cores of `total`.
fn means(total: &Row, rows: &[Row]) -> (f64, f64) {
    let alike =
        rows.iter().filter(|row| row.measure.tool == total.measure.tool && row.threads == total.threads);
    let ratios: Vec<(f64, f64)> = alike.filter_map(|row| row.ratios(rows)).collect();
    let mean = |logs: f64| (logs / f64::from(u32::try_from(ratios.len()).unwrap_or(u32::MAX))).exp();
    (mean(ratios.iter().map(|ratio| ratio.0.ln()).sum()), mean(ratios.iter().map(|ratio| ratio.1.ln()).sum()))
}

/// A table for people; size and speed are relative to bsdiff + bzip2.
pub fn markdown(rows: &[Row]) -> String {
    let totals = totals(rows);
    let mut text = lines(rows) + &lines_of(&totals);
    if !rows.iter().any(|row| row.measure.tool == BASELINE) {
        return text;
    }
    text.push_str("\n| geometric means | cores | size | speed |\n|---|--:|--:|--:|\n");
    for total in &totals {
        let (size, speed) = means(total, rows);
        let _ = writeln!(text, "| {} | {} | {size:.3} | {speed:.1}× |", total.measure.tool, total.threads);
    }
    text
}

fn lines(rows: &[Row]) -> String {
    let mut text = String::from("| pair | tool | cores | bytes | size | seconds | speed | cpu | MiB |\n");
    text.push_str("|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
    text + &lines_of(rows)
}

fn lines_of(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let (size, speed) = row.ratios(rows).unwrap_or((f64::NAN, f64::NAN));
        let (pair, threads) = (&row.pair, row.threads);
        let Measure { tool, bytes, time, processor, memory } = &row.measure;
        let (seconds, cpu) = (time.as_secs_f64(), processor.as_secs_f64());
        let memory = memory.map_or_else(String::new, |memory| (memory >> 20).to_string());
        let _ = writeln!(
            text,
            "| {pair} | {tool} | {threads} | {bytes} | {size:.2} | {seconds:.2} | {speed:.1}× | {cpu:.2} | {memory} |"
        );
    }
    text
}

/// Where the bytes of the deltas are.
pub fn classes(shares: &BTreeMap<Class, Share>) -> String {
    if shares.is_empty() {
        return String::new();
    }
    let all: u64 = shares.values().map(|share| share.bytes).sum();
    let mut text = String::from(
        "\n| d4c default, by class | contents | making bytes | delta bytes | part |\n|---|--:|--:|--:|--:|\n",
    );
    for (class, Share { contents, made_bytes, bytes }) in shares {
        let part = bytes * 100 / all.max(1);
        let _ = writeln!(text, "| {class} | {contents} | {made_bytes} | {bytes} | {part} % |");
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
                "tool": row.measure.tool,
                "cores": row.threads,
                "bytes": row.measure.bytes,
                "seconds": row.measure.time.as_secs_f64(),
                "processor_seconds": row.measure.processor.as_secs_f64(),
                "memory_bytes": row.measure.memory,
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
            threads,
            measure: Measure {
                tool: tool.into(),
                bytes,
                time: Duration::from_secs(seconds),
                processor: Duration::from_secs(2 * seconds),
                memory: None,
            },
        };
        let rows = [row("x", 1, 50, 2), row(BASELINE, 2, 10, 1), row(BASELINE, 1, 100, 10)];
        assert!(markdown(&rows).contains("| a → b | x | 1 | 50 | 0.50 | 2.00 | 5.0× | 4.00 |  |"));
        assert_eq!(json(&rows)[1]["size_ratio"], 1.0);
    }

    #[test]
    fn totals_and_means_are_over_the_pairs() {
        let row = |pair: &str, tool: &str, bytes| Row {
            pair: pair.into(),
            threads: 1,
            measure: Measure {
                tool: tool.into(),
                bytes,
                time: Duration::from_secs(bytes),
                processor: Duration::from_secs(bytes),
                memory: Some(bytes << 20),
            },
        };
        let rows = [row("a", BASELINE, 10), row("b", BASELINE, 90), row("a", "x", 5), row("b", "x", 180)];
        let text = markdown(&rows);
        assert!(text.contains("| all | x | 1 | 185 | 1.85 | 185.00 | 0.5× | 185.00 | 180 |"), "{text}");
        assert!(text.contains("| x | 1 | 1.000 | 1.0× |"), "{text}");
    }
}
