//! What to measure.

use crate::bench::results::TestKey;
use crate::kv::{CacheTypes, KvType};

/// The tests of a run: every combination of what is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Lengths of prompts.
    pub prompts: Vec<usize>,
    /// Lengths of answers.
    pub answers: Vec<usize>,
    /// Prompts with an answer, timed together.
    pub pairs: Vec<(usize, usize)>,
    /// Rows of steps of one sequence: the shape of verification.
    pub rows: Vec<usize>,
    /// Positions that are in the cache before each test.
    pub depths: Vec<usize>,
    /// Sequences that are answered together.
    pub parallel: Vec<usize>,
    /// Prompt tokens per evaluation.
    pub chunks: Vec<usize>,
    /// Types of cached keys and values.
    pub caches: Vec<(KvType, KvType)>,
    /// Timed runs of each test.
    pub repetitions: usize,
    /// Seconds to wait before each test.
    pub delay: u64,
    /// Whether each test is run once before it is timed.
    pub warm_up: bool,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt, of one sequence after the other.
    pub prompt: usize,
    /// Tokens of the answers, of all sequences together.
    pub answer: usize,
    /// Rows of a single step, where that is what is timed.
    pub rows: usize,
    /// Positions in the cache before.
    pub depth: usize,
    /// Sequences.
    pub sequences: usize,
    /// Prompt tokens per evaluation.
    pub chunk: usize,
}

impl Test {
    /// Positions of each sequence that the test needs.
    pub fn context(&self) -> usize {
        self.depth + self.prompt + self.answer + self.rows
    }

    /// Tokens that it evaluates.
    pub fn tokens(&self) -> usize {
        self.sequences * (self.prompt + self.answer) + self.rows
    }

    /// What identifies it in results.
    pub fn key(&self, (keys, values): (&str, &str)) -> TestKey {
        TestKey {
            n_prompt: self.prompt,
            n_gen: self.answer,
            n_rows: self.rows,
            n_depth: self.depth,
            n_parallel: self.sequences,
            n_ubatch: self.chunk,
            type_k: keys.to_owned(),
            type_v: values.to_owned(),
        }
    }
}

/// Tests that one loaded model serves: one cache type, so many sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Types of keys and values.
    pub cache: (KvType, KvType),
    /// Sequences.
    pub slots: usize,
    /// By depth, deeper ones later: what is in the cache can stay.
    pub tests: Vec<Test>,
}

impl Group {
    /// Positions of each sequence that the tests need.
    pub fn context(&self) -> usize {
        self.tests.iter().map(Test::context).max().unwrap_or(1)
    }

    /// Rows of the largest step.
    pub fn largest_step(&self) -> usize {
        let of_test = |test: &Test| test.rows.max(test.sequences);
        self.tests.iter().map(of_test).max().unwrap_or(1)
    }

    /// Rows of a sequence in the largest step.
    pub fn rows(&self) -> usize {
        self.tests.iter().map(|test| test.rows).max().unwrap_or(1)
    }

    /// The formats of its caches.
    pub fn types(&self) -> CacheTypes {
        let (keys, values) = self.cache;
        CacheTypes { keys, values }
    }

    /// Prompt tokens per evaluation at most.
    pub fn chunk(&self) -> usize {
        self.tests.iter().map(|test| test.chunk).max().unwrap_or(1)
    }
}

impl Suite {
    /// The tests, by the model that they need loaded.
    ///
    /// Prompts alone and steps of rows are of one sequence, whatever `parallel` says; they are measured once, with the
    /// smallest number of sequences. Answers alone do not depend on the chunk.
    pub fn groups(&self) -> Vec<Group> {
        let (parallel, depths) = (sorted(&self.parallel), sorted(&self.depths));
        let mut groups = Vec::new();
        for cache in &self.caches {
            for (index, slots) in parallel.iter().enumerate() {
                let mut tests = Vec::new();
                for depth in &depths {
                    self.at_depth(*depth, *slots, index == 0, &mut tests);
                }
                if !tests.is_empty() {
                    groups.push(Group {
                        cache: *cache,
                        slots: *slots,
                        tests,
                    });
                }
            }
        }
        groups
    }

    fn at_depth(&self, depth: usize, slots: usize, is_first: bool, tests: &mut Vec<Test>) {
        let test = |prompt, answer, rows, sequences, chunk| Test {
            prompt,
            answer,
            rows,
            depth,
            sequences,
            chunk,
        };
        let chunks = unique(&self.chunks);
        let any = chunks.first().copied().unwrap_or(1);
        if is_first {
            for prompt in unique(&self.prompts) {
                tests.extend(chunks.iter().map(|chunk| test(prompt, 0, 0, 1, *chunk)));
            }
        }
        for answer in unique(&self.answers) {
            tests.push(test(0, answer, 0, slots, any));
        }
        for (prompt, answer) in unique(&self.pairs) {
            tests.extend(chunks.iter().map(|chunk| test(prompt, answer, 0, slots, *chunk)));
        }
        if is_first && !self.rows.is_empty() {
            // one row is what the others are compared with
            let mut rows = unique(&self.rows);
            rows.retain(|rows| *rows != 1);
            rows.insert(0, 1);
            tests.extend(rows.into_iter().map(|rows| test(0, 0, rows, 1, any)));
        }
    }
}

/// Without repeated ones, in the order given.
fn unique<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(value) {
            seen.push(*value);
        }
    }
    seen
}

fn sorted(values: &[usize]) -> Vec<usize> {
    let mut values = unique(values);
    values.sort_unstable();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite() -> Suite {
        Suite {
            prompts: vec![16, 16],
            answers: vec![8],
            pairs: vec![(4, 2)],
            rows: vec![4],
            depths: vec![64, 0],
            parallel: vec![4, 1],
            chunks: vec![512, 128],
            caches: vec![(KvType::F16, KvType::F16), (KvType::F32, KvType::F32)],
            repetitions: 1,
            delay: 0,
            warm_up: true,
        }
    }

    #[test]
    fn each_combination_once() {
        let groups = suite().groups();
        let shape: Vec<_> = groups.iter().map(|group| (group.cache.0, group.slots)).collect();
        let (f16, f32) = (KvType::F16, KvType::F32);
        assert_eq!(shape, [(f16, 1), (f16, 4), (f32, 1), (f32, 4)]);
        let labels = |group: &Group| -> Vec<String> {
            let keys = group.tests.iter().map(|test| test.key(("f16", "f16")));
            keys.map(|key| format!("{} {}", key.label(), key.n_ubatch)).collect()
        };
        assert_eq!(
            labels(&groups[0])[..7],
            [
                "pp16 512",
                "pp16 128",
                "tg8 512",
                "pp4+tg2 512",
                "pp4+tg2 128",
                "1 row 512",
                "4 rows 512"
            ]
        );
        assert_eq!(
            labels(&groups[1]),
            [
                "tg8 x4 512",
                "pp4+tg2 x4 512",
                "pp4+tg2 x4 128",
                "tg8 x4 @ d64 512",
                "pp4+tg2 x4 @ d64 512",
                "pp4+tg2 x4 @ d64 128"
            ]
        );
        assert_eq!(
            (groups[0].context(), groups[0].largest_step(), groups[0].chunk()),
            (80, 4, 512)
        );
        assert_eq!((groups[1].context(), groups[1].largest_step()), (72, 4));
    }

    #[test]
    fn nothing_to_do_is_no_group() {
        let suite = Suite {
            prompts: Vec::new(),
            answers: Vec::new(),
            pairs: Vec::new(),
            rows: Vec::new(),
            ..suite()
        };
        assert_eq!(suite.groups(), []);
        // prompts are of one sequence
        let suite = Suite {
            prompts: vec![5],
            parallel: vec![8],
            ..suite
        };
        let tests = &suite.groups()[0].tests;
        assert!(tests.iter().all(|test| test.sequences == 1), "{tests:?}");
    }
}
