//! Rotary position embedding with NEOX pairing: element i turns with element i + width/2.

/// Parameters of a rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope<'a> {
    /// Elements of a head.
    pub head_dim: usize,
    /// The first `width` elements turn, in `width / 2` pairs; the rest pass through. Equal to `head_dim` for full rotation.
    pub width: usize,
    /// Base of the frequencies: pair i turns by `position * theta^(-2i / width)`.
    pub theta: f64,
    /// Divisors of the frequencies, one a pair (`rope_freqs` in model files; 1e30 stops a pair).
    pub divisors: Option<&'a [f32]>,
}

impl Rope<'_> {
    /// Angle of a pair at a position, radians.
    pub fn angle(&self, position: u32, pair: usize) -> f64 {
        let divisor = self.divisors.map_or(1.0, |divisors| f64::from(divisors[pair]));
        f64::from(position) * self.theta.powf(-2.0 * pair as f64 / self.width as f64) / divisor
    }

    /// Rotates `[positions, heads, head_dim]`; every head of a row has the row's position.
    ///
    /// # Panics
    /// When the lengths do not fit, or `width` is odd or larger than `head_dim`.
    pub fn apply(&self, x: &[f64], positions: &[u32]) -> Vec<f64> {
        self.check(x.len(), positions.len());
        let half = self.width / 2;
        let mut out = x.to_vec();
        for (row, &position) in out.chunks_exact_mut(x.len() / positions.len()).zip(positions) {
            for head in row.chunks_exact_mut(self.head_dim) {
                for pair in 0..half {
                    let (sin, cos) = self.angle(position, pair).sin_cos();
                    let (a, b) = (head[pair], head[pair + half]);
                    head[pair] = a * cos - b * sin;
                    head[pair + half] = b * cos + a * sin;
                }
            }
        }
        out
    }

    /// For each output of [`Rope::apply`], the sum of its two terms' largest sizes, |a| + |b|; the value itself where
    /// nothing turns.
    pub fn magnitudes(&self, x: &[f64]) -> Vec<f64> {
        let half = self.width / 2;
        let mut out: Vec<f64> = x.iter().map(|value| value.abs()).collect();
        for head in out.chunks_exact_mut(self.head_dim) {
            for pair in 0..half {
                let both = head[pair] + head[pair + half];
                (head[pair], head[pair + half]) = (both, both);
            }
        }
        out
    }

    /// Absolute angles belonging to the outputs of [`Rope::apply`]; zero where nothing turns.
    pub fn angles(&self, len: usize, positions: &[u32]) -> Vec<f64> {
        self.check(len, positions.len());
        let half = self.width / 2;
        let row = len / positions.len();
        let angle = |index: usize| {
            let (position, element) = (positions[index / row], index % row % self.head_dim);
            if element < self.width {
                self.angle(position, element % half).abs()
            } else {
                0.0
            }
        };
        (0..len).map(angle).collect()
    }

    fn check(&self, len: usize, rows: usize) {
        let (width, head_dim) = (self.width, self.head_dim);
        assert!(
            width.is_multiple_of(2) && width <= head_dim,
            "width {width} of a head of {head_dim}"
        );
        assert!(
            rows > 0 && len.is_multiple_of(rows * head_dim),
            "{len} values are not {rows} rows of heads of {head_dim}"
        );
        assert!(
            self.divisors.is_none_or(|divisors| divisors.len() == width / 2),
            "a divisor for each pair"
        );
    }
}

/// Rotates `[rows, heads, 2 * pairs]` by angles `[rows, pairs]`, all heads of a row alike.
///
/// # Panics
/// When the lengths do not fit.
pub fn rotate(x: &[f64], angles: &[f64], pairs: usize) -> Vec<f64> {
    let rows = angles.len() / pairs;
    assert!(
        rows > 0 && angles.len() == rows * pairs && x.len().is_multiple_of(rows * 2 * pairs),
        "{} values by {} angles of {pairs} pairs",
        x.len(),
        angles.len()
    );
    let mut out = x.to_vec();
    for (row, angles) in out.chunks_exact_mut(x.len() / rows).zip(angles.chunks_exact(pairs)) {
        for head in row.chunks_exact_mut(2 * pairs) {
            for (pair, angle) in angles.iter().enumerate() {
                let (a, b) = (head[pair], head[pair + pairs]);
                head[pair] = a * angle.cos() - b * angle.sin();
                head[pair + pairs] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::reference::widen;

    const FULL: Rope = Rope {
        head_dim: 8,
        width: 8,
        theta: 1e4,
        divisors: None,
    };

    #[test]
    fn position_zero_changes_nothing() {
        let x = widen(&Random::new("rope zero").normals(2 * 3 * 8, 1.0));
        assert_eq!(FULL.apply(&x, &[0, 0]), x);
    }

    #[test]
    fn the_first_pair_turns_by_the_position_in_radians() {
        let mut x = vec![0.0; 8];
        x[0] = 1.0;
        let out = FULL.apply(&x, &[3]);
        assert!((out[0] - 3.0_f64.cos()).abs() < 1e-15 && (out[4] - 3.0_f64.sin()).abs() < 1e-15);
        let mut x = vec![0.0; 8];
        x[6] = 1.0; // second element of pair 2, frequency 1e4^(-4/8) = 0.01
        let out = FULL.apply(&x, &[100]);
        assert!((out[2] + 1.0_f64.sin()).abs() < 1e-15 && (out[6] - 1.0_f64.cos()).abs() < 1e-15);
    }

    #[test]
    fn given_angles_rotate_as_computed_ones() {
        let x = widen(&Random::new("rope angles").normals(2 * 3 * 8, 1.0));
        let positions = [5, 900];
        let angles: Vec<f64> = positions
            .iter()
            .flat_map(|&position| (0..4).map(move |pair| FULL.angle(position, pair)))
            .collect();
        assert_eq!(rotate(&x, &angles, 4), FULL.apply(&x, &positions));
    }

    #[test]
    fn inner_products_depend_on_distance_only() {
        let mut random = Random::new("rope distance");
        let (q, k) = (widen(&random.normals(8, 1.0)), widen(&random.normals(8, 1.0)));
        let score = |a, b| -> f64 {
            FULL.apply(&q, &[a])
                .iter()
                .zip(FULL.apply(&k, &[b]))
                .map(|(q, k)| q * k)
                .sum()
        };
        assert!((score(1000, 993) - score(17, 10)).abs() < 1e-10);
        assert_ne!(score(17, 10), score(17, 11));
    }

    #[test]
    fn unrotated_parts_pass_through() {
        let x = widen(&Random::new("rope partial").normals(2 * 8, 1.0));
        let narrow = Rope { width: 4, ..FULL };
        let out = narrow.apply(&x, &[9, 70]);
        for head in 0..2 {
            assert_eq!(out[head * 8 + 4..head * 8 + 8], x[head * 8 + 4..head * 8 + 8]);
            assert_ne!(out[head * 8], x[head * 8]);
        }
        let stopped = Rope {
            divisors: Some(&[1.0, 1e30, 1e30, 1e30]),
            ..FULL
        };
        let out = stopped.apply(&x, &[9, 70]);
        let moved: Vec<usize> = (0..8).filter(|&i| (out[i] - x[i]).abs() > 1e-20).collect();
        assert_eq!(moved, [0, 4]);
        assert_eq!(stopped.angles(16, &[9, 70])[12], 70.0);
    }
}
