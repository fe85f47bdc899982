//! Comparing results with references, element by element, each against a bound of its own.

use std::fmt;

use half::{bf16, f16};

use crate::random;

/// A type kernels write.
pub trait Element: Copy + fmt::Display {
    /// A NaN with a payload no arithmetic produces. Outputs are filled with it before a run, see [`poisoned`].
    const POISON: Self;
    /// The value, exactly.
    fn to_f64(self) -> f64;
    /// Whether this is the poison, bit for bit.
    fn is_poison(self) -> bool;
}

impl Element for f32 {
    const POISON: Self = f32::from_bits(0x7fc0_dead);
    fn to_f64(self) -> f64 {
        self.into()
    }
    fn is_poison(self) -> bool {
        self.to_bits() == Self::POISON.to_bits()
    }
}

/// For results that a test has processed further: nothing in f64 is poison.
impl Element for f64 {
    const POISON: Self = f64::from_bits(0x7ff8_dead_dead_dead);
    fn to_f64(self) -> f64 {
        self
    }
    fn is_poison(self) -> bool {
        self.to_bits() == Self::POISON.to_bits()
    }
}

impl Element for f16 {
    const POISON: Self = f16::from_bits(0x7ead);
    fn to_f64(self) -> f64 {
        self.into()
    }
    fn is_poison(self) -> bool {
        self.to_bits() == Self::POISON.to_bits()
    }
}

impl Element for bf16 {
    const POISON: Self = bf16::from_bits(0x7fed);
    fn to_f64(self) -> f64 {
        self.into()
    }
    fn is_poison(self) -> bool {
        self.to_bits() == Self::POISON.to_bits()
    }
}

/// An output before a run: whatever a kernel does not write is found by [`Comparison`].
pub fn poisoned<T: Element>(len: usize) -> Vec<T> {
    vec![T::POISON; len]
}

/// One element that differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Where.
    pub index: usize,
    /// The result.
    pub got: f64,
    /// The reference.
    pub want: f64,
    /// The bound on |got − want|.
    pub bound: f64,
}

/// What comparing a result with its reference found. `Display` is one row of the table under [`Comparison::HEADER`].
///
/// A comparison passes when every element was written, is finite and is within its bound. It also fails when it proves
/// nothing: no elements, a reference that is zero everywhere or not finite, a bound that is NaN, infinite or negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What was compared: kernel, shape, device.
    pub name: String,
    /// Seed of the inputs.
    pub seed: u64,
    /// Elements compared.
    pub count: usize,
    /// Largest |got − want| over finite results.
    pub max_abs: f64,
    /// Largest |got − want| / |want| over finite results with want ≠ 0.
    pub max_rel: f64,
    /// Largest |got − want| / bound; at most 1 in a comparison that passes, infinite when a result is not finite.
    pub max_ratio: f64,
    /// Where `max_ratio` was found.
    pub worst: Option<Mismatch>,
    /// Elements outside their bounds, not finite ones included.
    pub failures: usize,
    /// Elements that still hold the poison, and the first of them.
    pub unwritten: (usize, Option<usize>),
    /// NaN or infinite elements that were written, and the first of them.
    pub not_finite: (usize, Option<usize>),
    /// Why the comparison could not prove anything.
    pub vacuous: Option<String>,
}

impl Comparison {
    /// Header of the table whose rows `Display` writes.
    pub const HEADER: &str = "| case | elements | max abs error | max rel error | max error / bound | worst at |\n\
                              |---|---:|---:|---:|---:|---:|";

    /// Compares; `bounds` has one entry for each element.
    pub fn new<T: Element>(name: impl Into<String>, got: &[T], want: &[f64], bounds: &[f64]) -> Self {
        let mut comparison = Self {
            name: name.into(),
            seed: random::seed(),
            count: want.len(),
            max_abs: 0.0,
            max_rel: 0.0,
            max_ratio: 0.0,
            worst: None,
            failures: 0,
            unwritten: (0, None),
            not_finite: (0, None),
            vacuous: vacuity(got.len(), want, bounds),
        };
        for (index, ((&got, &want), &bound)) in got.iter().zip(want).zip(bounds).enumerate() {
            comparison.add(index, got, want, bound);
        }
        comparison
    }

    /// Compares; one bound for all elements.
    pub fn uniform<T: Element>(name: impl Into<String>, got: &[T], want: &[f64], bound: f64) -> Self {
        Self::new(name, got, want, &vec![bound; want.len()])
    }

    fn add<T: Element>(&mut self, index: usize, got: T, want: f64, bound: f64) {
        let value = got.to_f64();
        let error = (value - want).abs();
        let ratio = if error == 0.0 {
            0.0
        } else if error.is_finite() && bound > 0.0 {
            error / bound
        } else {
            f64::INFINITY
        };
        if value.is_finite() {
            self.max_abs = self.max_abs.max(error);
            if want != 0.0 {
                self.max_rel = self.max_rel.max(error / want.abs());
            }
        } else {
            let kind = if got.is_poison() {
                &mut self.unwritten
            } else {
                &mut self.not_finite
            };
            kind.0 += 1;
            kind.1.get_or_insert(index);
        }
        if ratio > 1.0 {
            self.failures += 1;
        }
        if self.worst.is_none() || ratio > self.max_ratio {
            self.max_ratio = ratio;
            self.worst = Some(Mismatch {
                index,
                got: value,
                want,
                bound,
            });
        }
    }

    /// Whether every element is as it must be.
    pub fn passed(&self) -> bool {
        self.failures == 0 && self.vacuous.is_none()
    }

    /// The worst element and what else is wrong, for people; `None` when the comparison passes.
    pub fn failure(&self) -> Option<String> {
        if self.passed() {
            return None;
        }
        let mut text = format!("{} (seed {}): ", self.name, self.seed);
        if let Some(reason) = &self.vacuous {
            text += &format!("the comparison proves nothing: {reason}");
        }
        if self.failures > 0 {
            text += &format!("{} of {} elements are wrong", self.failures, self.count);
        }
        if let Some(Mismatch {
            index,
            got,
            want,
            bound,
        }) = self.worst.filter(|_| self.failures > 0)
        {
            let error = (got - want).abs();
            text += &format!(
                "\n  worst: element {index}: got {got:?}, want {want:?}, error {error:.3e}, bound {bound:.3e}"
            );
        }
        for (what, (count, first)) in [("never written", self.unwritten), ("NaN or infinite", self.not_finite)] {
            if let Some(first) = first {
                text += &format!("\n  {what}: {count}, first element {first}");
            }
        }
        Some(text)
    }

    /// Fails the test unless the comparison passes.
    ///
    /// # Panics
    /// With [`Comparison::failure`].
    #[track_caller]
    pub fn assert(&self) {
        if let Some(failure) = self.failure() {
            panic!("{failure}");
        }
    }
}

fn vacuity(got: usize, want: &[f64], bounds: &[f64]) -> Option<String> {
    if (got, bounds.len()) != (want.len(), want.len()) {
        return Some(format!(
            "{got} results, {} references and {} bounds",
            want.len(),
            bounds.len()
        ));
    }
    if let Some(index) = want.iter().position(|want| !want.is_finite()) {
        return Some(format!("reference {index} is {}", want[index]));
    }
    if let Some(index) = bounds.iter().position(|bound| !(bound.is_finite() && *bound >= 0.0)) {
        return Some(format!("bound {index} is {}", bounds[index]));
    }
    want.iter()
        .all(|&want| want == 0.0)
        .then(|| "no reference differs from zero".to_owned())
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| {} | {} | {:.2e} | {:.2e} | ",
            self.name, self.count, self.max_abs, self.max_rel
        )?;
        match self.worst {
            Some(worst) => write!(f, "{:.4} | {} |", self.max_ratio, worst.index),
            None => write!(f, "- | - |"),
        }
    }
}

/// Fails the test unless two sequences are equal: for bytes, integers, indices.
///
/// # Panics
/// With the first difference and the seed.
#[track_caller]
pub fn assert_equal<T: PartialEq + fmt::Debug>(name: &str, got: &[T], want: &[T]) {
    let seed = random::seed();
    assert_eq!(got.len(), want.len(), "{name} (seed {seed}): number of elements");
    assert!(!want.is_empty(), "{name} (seed {seed}): nothing to compare");
    let differing = got.iter().zip(want).filter(|(got, want)| got != want).count();
    if let Some(index) = (0..want.len()).find(|&index| got[index] != want[index]) {
        panic!(
            "{name} (seed {seed}): {differing} of {} elements differ\n  first: element {index}: got {:?}, want {:?}",
            want.len(),
            got[index],
            want[index]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANT: [f64; 4] = [1.0, -2.0, 0.0, 4.0];
    const BOUNDS: [f64; 4] = [0.1, 0.1, 0.0, 0.5];

    fn compare(got: [f32; 4]) -> Comparison {
        Comparison::new("case", &got, &WANT, &BOUNDS)
    }

    #[test]
    fn figures_are_of_the_worst_elements() {
        let comparison = compare([1.0, -2.0625, 0.0, 4.25]);
        assert!(comparison.passed());
        assert_eq!(
            (comparison.max_abs, comparison.max_rel, comparison.max_ratio),
            (0.25, 0.0625, 0.625)
        );
        assert_eq!(comparison.worst.map(|worst| worst.index), Some(1));
        assert_eq!(comparison.to_string(), "| case | 4 | 2.50e-1 | 6.25e-2 | 0.6250 | 1 |");
        let columns = |line: &str| line.matches('|').count();
        assert_eq!(
            columns(Comparison::HEADER.lines().next().unwrap()),
            columns(&comparison.to_string())
        );
    }

    #[test]
    fn a_failure_says_where_what_and_with_which_seed() {
        let text = compare([1.0, -2.5, 0.0, 4.0]).failure().unwrap();
        for part in [
            "case",
            "seed",
            "1 of 4",
            "element 1",
            "got -2.5",
            "want -2.0",
            "5.000e-1",
            "1.000e-1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            !compare([1.0, -2.0, 1e-30, 4.0]).passed(),
            "a bound of zero means equal"
        );
    }

    #[test]
    fn nan_and_infinity_never_pass() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let comparison = compare([1.0, value, 0.0, 4.0]);
            assert_eq!(
                (comparison.passed(), comparison.not_finite),
                (false, (1, Some(1))),
                "{value}"
            );
            assert!(
                comparison
                    .failure()
                    .unwrap()
                    .contains("NaN or infinite: 1, first element 1")
            );
        }
    }

    #[test]
    fn unwritten_elements_are_told_from_nan() {
        let mut got = poisoned::<f32>(4);
        got[0] = 1.0;
        let comparison = Comparison::new("case", &got, &WANT, &BOUNDS);
        assert_eq!((comparison.unwritten, comparison.not_finite), ((3, Some(1)), (0, None)));
        assert!(
            comparison
                .failure()
                .unwrap()
                .contains("never written: 3, first element 1")
        );
        assert!(!Comparison::new("f16", &poisoned::<f16>(4), &WANT, &BOUNDS).passed());
        assert_eq!(
            Comparison::new("bf16", &poisoned::<bf16>(4), &WANT, &BOUNDS)
                .unwritten
                .0,
            4
        );
    }

    #[test]
    fn comparisons_that_prove_nothing_fail() {
        let got = [0.0_f32; 2];
        let table: [(&[f64], &[f64]); 6] = [
            (&[], &[]),
            (&[0.0, 0.0], &[1.0, 1.0]),
            (&[1.0], &[10.0]),
            (&[1.0, f64::NAN], &[9.0, 9.0]),
            (&[1.0, 1.0], &[9.0, f64::NAN]),
            (&[1.0, 1.0], &[9.0, f64::INFINITY]),
        ];
        for (want, bounds) in table {
            let comparison = Comparison::new("vacuous", &got, want, bounds);
            assert!(!comparison.passed(), "{want:?} {bounds:?}");
            assert!(comparison.failure().unwrap().contains("proves nothing"));
        }
    }

    #[test]
    #[should_panic(expected = "first: element 2: got 9, want 3")]
    fn equality_shows_the_first_difference() {
        assert_equal("bytes", &[1, 2, 9], &[1, 2, 3]);
    }
}
