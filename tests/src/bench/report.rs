//! What a bench has found, for people and for machines.

use std::{fmt, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    pairs::Pair,
    statistics::{Spread, rounded},
};

/// All that one bench has found. Its JSON is what `--json` writes, and the same for every bench.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The bench's name.
    pub bench: &'static str,
    /// What the numbers count.
    pub unit: &'static str,
    /// In the order in which they were measured.
    pub cases: Vec<Case>,
    /// What was counted instead of timed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<Count>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// What was done.
    #[serde(rename = "case")]
    pub name: String,
    /// With smartclone.
    pub ours: Spread,
    /// By hand.
    pub floor: Spread,
    /// The medians', ours to the floor's.
    pub ratio: f64,
}

/// Of the column with a case's name.
const NAME_WIDTH: usize = 34;

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Count {
    /// What was counted.
    #[serde(rename = "count")]
    pub name: String,
    /// With smartclone.
    pub ours: f64,
    /// By hand, where there is something to count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// What ours should not exceed, if somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim: Option<f64>,
    /// What ours should reach, if somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<f64>,
}

impl Count {
    /// To two digits after the point.
    pub fn of(name: &str, ours: f64) -> Self {
        Self { name: name.to_owned(), ours: rounded(ours, 2), floor: None, aim: None, least: None }
    }

    /// And by hand.
    pub fn floor(self, floor: f64) -> Self {
        Self { floor: Some(rounded(floor, 2)), ..self }
    }

    /// It should not be more than this.
    pub fn at_most(self, aim: f64) -> Self {
        Self { aim: Some(aim), ..self }
    }

    /// It should not be less than this.
    pub fn at_least(self, least: f64) -> Self {
        Self { least: Some(least), ..self }
    }
}

/// A line of the table.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<44} {:>8.2}", self.name, self.ours)?;
        match self.floor {
            Some(floor) => write!(f, " {floor:>8.2}")?,
            None => write!(f, " {:>8}", "")?,
        }
        let met = |met| if met { "met" } else { "missed" };
        match (self.aim, self.least) {
            (Some(aim), _) => write!(f, "   at most {aim}: {}", met(self.ours <= aim)),
            (None, Some(least)) => write!(f, "   at least {least}: {}", met(self.ours >= least)),
            (None, None) => Ok(()),
        }
    }
}

impl Case {
    /// Ours to the floor's: the medians, what 90 of 100 didn't exceed, and the longest.
    pub fn ratios(&self) -> [f64; 3] {
        let ratio = |of: fn(&Spread) -> f64| rounded(of(&self.ours) / of(&self.floor), 2);
        [self.ratio, ratio(|spread| spread.p90), ratio(|spread| spread.max)]
    }

    /// The ratios, each of which should not exceed `aim`.
    pub fn ratios_at_most(&self, aim: f64) -> [Count; 3] {
        let [median, p90, max] = self.ratios();
        [("p50", median), ("p90", p90), ("max", max)]
            .map(|(what, ratio)| Count::of(&format!("{}: {what}, ratio", self.name), ratio).at_most(aim))
    }

    /// What the pairs come to.
    pub fn of(name: &str, pairs: &[Pair]) -> Result<Self> {
        let spread = |side: fn(&Pair) -> std::time::Duration| {
            Spread::of(&pairs.iter().map(side).collect::<Vec<_>>()).context("nothing was measured")
        };
        let (ours, floor) = (spread(|pair| pair.ours)?, spread(|pair| pair.floor)?);
        Ok(Self { name: name.to_owned(), ratio: rounded(ours.median / floor.median, 2), ours, floor })
    }
}

impl Report {
    /// Writes the JSON.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        std::fs::write(file, json).with_context(|| format!("write {}", file.display()))
    }
}

/// A table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, median, p90, max) = ("min", "median", "p90", "max");
        writeln!(f, "{:<NAME_WIDTH$} {:^36}   {:^36}   {:^23}", "", "ours", "floor", "ratio")?;
        write!(f, "{:<NAME_WIDTH$}", format!("{}, {}", self.bench, self.unit))?;
        for _ in 0..2 {
            write!(f, " {min:>8} {median:>9} {p90:>8} {max:>8}  ")?;
        }
        writeln!(f, " {median:>7} {p90:>7} {max:>7}")?;
        for case in &self.cases {
            write!(f, "{:<NAME_WIDTH$}", case.name)?;
            for it in [&case.ours, &case.floor] {
                write!(f, " {:>8.1} {:>9.1} {:>8.1} {:>8.1}  ", it.min, it.median, it.p90, it.max)?;
            }
            let [of_medians, of_p90, of_max] = case.ratios();
            writeln!(f, " {of_medians:>7.2} {of_p90:>7.2} {of_max:>7.2}")?;
        }
        if self.counts.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{:<44} {:>8} {:>8}   aim", "", "ours", "floor")?;
        self.counts.iter().try_for_each(|count| writeln!(f, "{}", count.to_string().trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn report() -> Report {
        let pair = |ours, floor| Pair { ours: Duration::from_millis(ours), floor: Duration::from_millis(floor) };
        let case = Case::of("1Gi", &[pair(300, 200), pair(270, 210), pair(250, 190)]).unwrap();
        Report { bench: "clone", unit: "ms", cases: vec![case], counts: Vec::new() }
    }

    /// Whoever reads it later counts on exactly these names.
    #[test]
    fn the_json_is_the_same_for_every_bench() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("report.json");
        report().write(&file)?;
        let found: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let wanted = json!({
            "bench": "clone",
            "unit": "ms",
            "cases": [{
                "case": "1Gi",
                "ours": {"min": 250.0, "median": 270.0, "p90": 300.0, "max": 300.0},
                "floor": {"min": 190.0, "median": 200.0, "p90": 210.0, "max": 210.0},
                "ratio": 1.35
            }]
        });
        assert_eq!(found, wanted);
        Ok(())
    }

    #[test]
    fn the_columns_of_the_table_stand_under_their_heads() {
        let table = report().to_string();
        let [_, head, row] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
        assert!(row.starts_with("1Gi "), "{table}");
        assert_eq!(head.len(), row.len(), "{table}");
        let columns = |line: &str| {
            let ends = line.char_indices().filter(|(at, c)| *c != ' ' && !line[at + 1..].starts_with(|c| c != ' '));
            ends.map(|(at, _)| at).skip_while(|at| *at < NAME_WIDTH).collect::<Vec<_>>()
        };
        assert_eq!(columns(head), columns(row), "{table}");
        assert_eq!(columns(head).len(), 4 + 4 + 3, "{table}");
    }

    #[test]
    fn what_is_counted_stands_beside_its_aim() -> Result<()> {
        let counts = vec![Count::of("writes", 9.456).floor(7.0).at_most(9.0), Count::of("leftovers", 0.0).at_most(0.0)];
        let report = Report { counts, ..report() };
        let table = report.to_string();
        let lines: Vec<Vec<_>> = table.lines().rev().take(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["writes", "9.46", "7.00", "at", "most", "9:", "missed"]);
        assert_eq!(lines[0], ["leftovers", "0.00", "at", "most", "0:", "met"]);
        let json = serde_json::to_value(&report)?;
        assert_eq!(json["counts"][0], json!({"count": "writes", "ours": 9.46, "floor": 7.0, "aim": 9.0}));
        Ok(())
    }

    #[test]
    fn nothing_measured_is_no_case() {
        assert!(Case::of("1Gi", &[]).is_err());
    }
}
