//! What cases found.

use std::fmt::{self, Debug, Display, Write};
use std::io;

use crate::tolerance::Comparison;

/// Result of one comparison of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Each element within a bound of its own.
    Within(Comparison),
    /// Every element equal.
    Equal(Equality),
}

/// Two sequences that must be equal: bytes, indices, bit patterns.
#[derive(Clone, Debug, PartialEq)]
pub struct Equality {
    /// What was compared: kernel, shape.
    pub name: String,
    /// Seed of the inputs.
    pub seed: u64,
    /// Elements compared.
    pub count: usize,
    /// Elements that differ.
    pub differing: usize,
    /// The first of them: where, the result, the reference.
    pub first: Option<(usize, String, String)>,
    /// Why the comparison could not prove anything.
    pub vacuous: Option<String>,
}

impl Equality {
    /// Compares.
    pub fn new<T: PartialEq + Debug>(name: impl Into<String>, got: &[T], want: &[T]) -> Self {
        let differs = |index: &usize| got[*index] != want[*index];
        let common = got.len().min(want.len());
        let mut differing = (0..common).filter(differs).peekable();
        Self {
            name: name.into(),
            seed: crate::random::seed(),
            count: want.len(),
            first: differing
                .peek()
                .map(|&index| (index, format!("{:?}", got[index]), format!("{:?}", want[index]))),
            differing: differing.count(),
            vacuous: if got.len() != want.len() {
                Some(format!("{} results, {} references", got.len(), want.len()))
            } else {
                want.is_empty().then(|| "there are no elements".to_owned())
            },
        }
    }

    /// What is wrong, for people; `None` when all elements are equal.
    pub fn failure(&self) -> Option<String> {
        let mut text = format!("{} (seed {}): ", self.name, self.seed);
        if let Some(reason) = &self.vacuous {
            text += &format!("the comparison proves nothing: {reason}");
        } else if let Some((index, got, want)) = &self.first {
            text += &format!(
                "{} of {} elements differ\n  first: element {index}: got {got}, want {want}",
                self.differing, self.count
            );
        } else {
            return None;
        }
        Some(text)
    }
}

impl Outcome {
    /// What is wrong, for people; `None` when nothing is.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Within(comparison) => comparison.failure(),
            Self::Equal(equality) => equality.failure(),
        }
    }
}

impl Display for Outcome {
    /// A row of the table under [`Comparison::HEADER`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(comparison) => write!(f, "{comparison}"),
            Self::Equal(Equality {
                name,
                count,
                first: None,
                ..
            }) => write!(f, "| {name} | {count} | equal | equal | - | - |"),
            Self::Equal(Equality {
                name,
                count,
                differing,
                first: Some((at, ..)),
                ..
            }) => {
                write!(f, "| {name} | {count} | {differing} differ | - | - | {at} |")
            }
        }
    }
}

/// What all cases found on one device.
#[derive(Debug)]
pub struct Report {
    /// Device and target.
    pub title: String,
    /// In the order of the cases.
    pub outcomes: Vec<Outcome>,
    /// What could not be compared at all, for people.
    pub errors: Vec<String>,
}

impl Report {
    /// An empty report.
    pub fn new(title: String) -> Self {
        Self {
            title,
            outcomes: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Notes that a case could not be run.
    pub fn fail(&mut self, case: &str, seed: u64, error: impl Display) {
        self.errors.push(format!("{case} (seed {seed}): {error}"));
    }

    /// The table of all comparisons, as Markdown.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{} (seed {})\n\n{}\n",
            self.title,
            crate::random::seed(),
            Comparison::HEADER
        );
        for outcome in &self.outcomes {
            let _ = writeln!(text, "{outcome}");
        }
        text
    }

    /// Prints the table, also when the test passes.
    pub fn print(&self) {
        // Past the test harness, which keeps what `println!` says in a test that passes.
        let _ = io::Write::write_all(&mut io::stdout().lock(), self.table().as_bytes());
    }

    /// Fails the test unless every case ran and every comparison passed.
    ///
    /// # Panics
    /// With all that is wrong.
    #[track_caller]
    pub fn assert(&self) {
        let failures: Vec<String> = self
            .errors
            .iter()
            .cloned()
            .chain(self.outcomes.iter().filter_map(Outcome::failure))
            .collect();
        assert!(
            failures.is_empty(),
            "{}: {} failed of {} comparisons\n\n{}",
            self.title,
            failures.len(),
            self.outcomes.len(),
            failures.join("\n\n")
        );
        assert!(!self.outcomes.is_empty(), "{}: nothing was compared", self.title);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_finds_the_first_difference_and_proves_something() {
        assert_eq!(Equality::new("same", &[1, 2], &[1, 2]).failure(), None);
        let text = Equality::new("bytes", &[1, 9, 9], &[1, 2, 3]).failure().unwrap();
        assert!(
            text.contains("2 of 3") && text.contains("element 1: got 9, want 2") && text.contains("seed"),
            "{text}"
        );
        for (got, want) in [(&[1][..], &[1, 2][..]), (&[], &[])] {
            assert!(
                Equality::new("vacuous", got, want)
                    .failure()
                    .unwrap()
                    .contains("proves nothing")
            );
        }
    }

    #[test]
    fn a_report_fails_on_errors_and_when_it_is_empty() {
        let fails = |report: Report| std::panic::catch_unwind(|| report.assert()).is_err();
        assert!(fails(Report::new("empty".to_owned())));
        let mut report = Report::new("one".to_owned());
        report.outcomes.push(Outcome::Equal(Equality::new("same", &[1], &[1])));
        report.assert();
        report.fail("case", 7, "no device");
        assert!(fails(report));
    }
}
