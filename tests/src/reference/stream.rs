//! Adding up everything that is read.

/// The sums (modulo 2^32) of `threads` readers of `quads`: quad q belongs to reader q modulo `threads`.
pub fn stream_read(quads: &[[u32; 4]], threads: usize) -> Vec<u32> {
    let mut sums = vec![0u64; threads];
    for (index, quad) in quads.iter().enumerate() {
        sums[index % threads] += quad.iter().map(|word| u64::from(*word)).sum::<u64>();
    }
    sums.into_iter().map(|sum| (sum % (1 << 32)) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_take_turns() {
        let quads = [[1, 2, 3, 4], [10, 0, 0, 0], [u32::MAX, 1, 5, 0]];
        assert_eq!(stream_read(&quads, 2), [15, 10]);
        assert_eq!(stream_read(&quads, 4), [10, 10, 5, 0]);
    }
}
