//! Results as a table and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// A tool on a pair.
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

/// A table for people; size and speed are relative to bsdiff + bzip2.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| pair | tool | cores | bytes | size | seconds | speed |\n");
    text.push_str("|---|---|--:|--:|--:|--:|--:|\n");
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
}
