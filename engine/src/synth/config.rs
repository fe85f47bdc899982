//! Shapes of the models that can be written.

use crate::gguf::TensorType;

/// Shapes and types of one target model and its assistant.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub name: &'static str,
    /// What it is, for `--help`.
    pub about: &'static str,
    pub width: usize,
    pub layers: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads_sliding: usize,
    pub kv_heads_full: usize,
    pub head_sliding: usize,
    pub head_full: usize,
    pub window: usize,
    /// Sliding layers before each full one.
    pub sliding_per_full: usize,
    /// Layers at the end that read the keys and values of others.
    pub shared_layers: usize,
    /// Width of the per-layer embeddings, 0 for none.
    pub per_layer_width: usize,
    pub vocabulary: usize,
    pub context: usize,
    /// Whether layers without keys and values of their own have twice the feed-forward width.
    pub double_wide: bool,
    /// Whether full layers use their key projection as values.
    pub k_eq_v: bool,
    /// Whether the file lists tokens that are never to be sampled.
    pub suppress: bool,
    /// Standard deviation of the embeddings. Large enough that the noise of the blocks stays small beside them.
    pub embedding_deviation: f32,
    /// Types of ordinary weights, of those that get more bits, and of the tables.
    pub types: [TensorType; 3],
    pub assistant: Assistant,
}

/// Shapes of an assistant: four layers, the last one full.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Assistant {
    pub width: usize,
    pub feed_forward: usize,
    pub heads: usize,
    /// Centroids of the ordered head, when that is asked for and the published model has one.
    pub centroids: Option<usize>,
}

const K_QUANTS: [TensorType; 3] = [TensorType::Q4_K, TensorType::Q6_K, TensorType::Q6_K];

/// Shapes of E4B; the others say how they differ.
const E4B: Config = Config {
    name: "e4b",
    about: "the shapes of Gemma 4 E4B, 5.4 GiB",
    width: 2560,
    layers: 42,
    feed_forward: 10240,
    heads: 8,
    kv_heads_sliding: 2,
    kv_heads_full: 2,
    head_sliding: 256,
    head_full: 512,
    window: 512,
    sliding_per_full: 5,
    shared_layers: 18,
    per_layer_width: 256,
    vocabulary: 262_144,
    context: 131_072,
    double_wide: false,
    k_eq_v: false,
    suppress: false,
    embedding_deviation: 0.02,
    types: K_QUANTS,
    assistant: Assistant {
        width: 256,
        feed_forward: 2048,
        heads: 4,
        centroids: Some(2048),
    },
};

const E2B: Config = Config {
    name: "e2b",
    about: "the shapes of Gemma 4 E2B, 3.4 GiB",
    width: 1536,
    layers: 35,
    feed_forward: 6144,
    kv_heads_sliding: 1,
    kv_heads_full: 1,
    sliding_per_full: 4,
    shared_layers: 20,
    double_wide: true,
    ..E4B
};

const DENSE_31B: Config = Config {
    name: "31b",
    about: "the shapes of Gemma 4 31B, 18 GiB",
    width: 5376,
    layers: 60,
    feed_forward: 21504,
    heads: 32,
    kv_heads_sliding: 16,
    kv_heads_full: 4,
    window: 1024,
    shared_layers: 0,
    per_layer_width: 0,
    context: 262_144,
    k_eq_v: true,
    assistant: Assistant {
        width: 1024,
        feed_forward: 8192,
        heads: 32,
        centroids: None,
    },
    ..E4B
};

/// A dense model of about 12 billion weights between E4B and 31B, built like 31B.
///
/// These numbers are a choice: of the 12B variant it is only known here that it has this architecture's name, no
/// per-layer embeddings, and tokens to suppress.
const DENSE_12B: Config = Config {
    name: "12b",
    about: "a dense model of about 12 billion weights, 7.5 GiB",
    width: 3840,
    layers: 48,
    feed_forward: 15360,
    heads: 16,
    kv_heads_sliding: 8,
    kv_heads_full: 2,
    context: 131_072,
    suppress: true,
    assistant: Assistant {
        width: 1024,
        feed_forward: 8192,
        heads: 16,
        centroids: None,
    },
    ..DENSE_31B
};

const MINI: Config = Config {
    name: "mini",
    about: "the structure of E4B with true head sizes on 12 narrow layers, 60 MiB",
    width: 512,
    layers: 12,
    feed_forward: 1024,
    shared_layers: 6,
    vocabulary: 8192,
    assistant: Assistant {
        centroids: Some(512),
        ..E4B.assistant
    },
    ..E4B
};

/// Ours: everything an E model has, small enough for a CPU that interprets kernels.
pub(super) const TINY: Config = Config {
    name: "tiny",
    about: "the structure of E2B on 6 very small layers for the host device, 2 MiB",
    width: 128,
    layers: 6,
    feed_forward: 256,
    heads: 4,
    kv_heads_sliding: 2,
    kv_heads_full: 1,
    head_sliding: 64,
    head_full: 128,
    window: 32,
    sliding_per_full: 2,
    shared_layers: 3,
    per_layer_width: 32,
    vocabulary: 2048,
    context: 8192,
    double_wide: true,
    // 1/sqrt(width): the scaled embedding then has unit size
    embedding_deviation: 0.088_388,
    types: [TensorType::Q4_0, TensorType::Q8_0, TensorType::Q8_0],
    assistant: Assistant {
        width: 96,
        feed_forward: 192,
        heads: 4,
        centroids: Some(128),
    },
    ..E4B
};

/// Every model that can be written.
pub const CONFIGS: [Config; 6] = [TINY, MINI, E2B, E4B, DENSE_12B, DENSE_31B];

impl Config {
    /// The model of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CONFIGS.iter().find(|config| config.name == name)
    }

    /// Which layers have a sliding window. The last layer is always full.
    pub fn sliding(&self) -> Vec<bool> {
        let period = self.sliding_per_full + 1;
        (1..=self.layers)
            .map(|layer| !layer.is_multiple_of(period) && layer != self.layers)
            .collect()
    }

    /// Layers with keys and values of their own.
    pub fn owning_layers(&self) -> usize {
        self.layers - self.shared_layers
    }

    /// Feed-forward width of every layer.
    pub fn feed_forwards(&self) -> Vec<usize> {
        (0..self.layers)
            .map(|layer| match self.double_wide && layer >= self.owning_layers() {
                true => 2 * self.feed_forward,
                false => self.feed_forward,
            })
            .collect()
    }
}

/// The type that takes the place of `kind` where rows are no whole number of its blocks.
pub(super) fn fitting(kind: TensorType, row: usize) -> TensorType {
    let fits = |kind: TensorType| kind.block_values().is_some_and(|block| row.is_multiple_of(block));
    let smaller = match kind {
        TensorType::Q4_K => TensorType::Q5_0,
        TensorType::Q6_K => TensorType::Q8_0,
        other => other,
    };
    [kind, smaller]
        .into_iter()
        .find(|&kind| fits(kind))
        .unwrap_or(TensorType::F16)
}

/// Whether weight `index` of `count` gets more bits: the first and last eighth, and every third between.
pub(super) fn gets_more_bits(index: usize, count: usize) -> bool {
    let eighth = count / 8;
    index < eighth || index >= 7 * count / 8 || (index - eighth) % 3 == 2
}
