//! What a file says of its network. Keys: GGUF conventions for `gemma4` and `gemma4-assistant`.

use crate::gguf::Metadata;

use super::ModelError;

/// Attention over everything before, or over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// The last `window` positions.
    Sliding,
    /// All positions.
    Full,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Sliding or full.
    pub kind: LayerKind,
    /// Positions that a query sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Values of a head.
    pub head_dim: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of the feed-forward network.
    pub ffn: usize,
    /// The layer whose keys and values it reads: itself where it owns some.
    pub kv_from: usize,
}

/// What the layers of targets and assistants have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Of all norms.
    pub epsilon: f32,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Base of the rotation of full layers.
    pub rope_base: f64,
    /// Base of the rotation of sliding layers.
    pub rope_base_sliding: f64,
}

impl Shape {
    /// Head dim of the layers of a kind.
    pub fn head_dim(&self, kind: LayerKind) -> Option<usize> {
        self.layers
            .iter()
            .find(|layer| layer.kind == kind)
            .map(|layer| layer.head_dim)
    }

    /// Radians per position of the pairs of a head: base^(-2i/d), divided by the file's divisors on full layers.
    pub fn inverse_frequencies(&self, kind: LayerKind, head_dim: usize, divisors: Option<&[f32]>) -> Vec<f32> {
        let base = match kind {
            LayerKind::Sliding => self.rope_base_sliding,
            LayerKind::Full => self.rope_base,
        };
        (0..head_dim / 2)
            .map(|pair| {
                let divisor = divisors
                    .and_then(|all| all.get(pair))
                    .map_or(1.0, |divisor| f64::from(*divisor));
                (base.powf(-2.0 * pair as f64 / head_dim as f64) / divisor) as f32
            })
            .collect()
    }
}

/// A Gemma 4 target.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetConfig {
    /// `general.name`
    pub name: String,
    /// Its layers.
    pub shape: Shape,
    /// Layers below this one own their keys and values.
    pub own_layers: usize,
    /// Positions it was trained for.
    pub context: usize,
    /// Width of per-layer embeddings, 0 for none.
    pub ple: usize,
    /// Final logits are capped: c·tanh(x/c).
    pub softcap: Option<f32>,
}

/// An MTP assistant.
#[derive(Clone, Debug, PartialEq)]
pub struct AssistantConfig {
    /// Its layers; `kv_from` has no meaning before it meets its target.
    pub shape: Shape,
    /// Width of its target's residual stream.
    pub backbone: usize,
    /// Centroids that are looked up per token, where the file has centroids.
    pub top_centroids: usize,
    /// The layout of its tensor names.
    pub names: Names,
}

/// Layouts of tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As converters write them now.
    Current,
    /// Assistants of May 2026.
    Legacy,
}

impl Names {
    /// The name in the file of what is now called `name`.
    pub fn tensor(self, name: &str) -> String {
        let legacy = match (self, name) {
            (Self::Legacy, "nextn.pre_projection.weight") => "mtp.pre_projection.weight",
            (Self::Legacy, "nextn.post_projection.weight") => "mtp.post_projection.weight",
            (Self::Legacy, "masked_embd_centroids.weight") => "mtp.centroids.weight",
            (Self::Legacy, "masked_embd_ordering") => "mtp.token_ordering.weight",
            _ => name,
        };
        legacy.to_owned()
    }
}

/// Most layers, widest rows and so on that a sane file can have: beyond, products overflow.
const LARGEST: usize = 1 << 24;

/// Keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
    model: &'static str,
}

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    fn size(&self, suffix: &str) -> Result<Option<usize>, ModelError> {
        let key = self.key(suffix);
        let Some(value) = self.metadata.u64(&key)? else {
            return Ok(None);
        };
        let size = usize::try_from(value).ok().filter(|size| *size <= LARGEST);
        size.map(Some)
            .ok_or_else(|| self.bad(suffix, value, format!("at most {LARGEST} is possible")))
    }

    fn bad(&self, suffix: &str, found: impl ToString, wanted: impl Into<String>) -> ModelError {
        ModelError::BadValue {
            key: self.key(suffix),
            found: found.to_string(),
            wanted: wanted.into(),
        }
    }

    /// A size of at least 1.
    fn need(&self, suffix: &str, what: &'static str) -> Result<usize, ModelError> {
        match self.size(suffix)? {
            Some(0) => Err(self.bad(suffix, 0, "it has to be at least 1")),
            Some(size) => Ok(size),
            None => Err(ModelError::MissingKey {
                key: self.key(suffix),
                model: self.model,
                what,
            }),
        }
    }

    fn real(&self, suffix: &str, default: f32) -> Result<f32, ModelError> {
        let value = self.metadata.f32(&self.key(suffix))?.unwrap_or(default);
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.bad(suffix, value, "it has to be a positive number"))
        }
    }

    /// A number per layer; the file may have one for all.
    fn per_layer(&self, suffix: &str, layers: usize, what: &'static str) -> Result<Vec<usize>, ModelError> {
        let key = self.key(suffix);
        let Some(field) = self.metadata.get(&key) else {
            return Err(ModelError::MissingKey {
                key,
                model: self.model,
                what,
            });
        };
        let values = field.u32_per_layer(layers)?;
        if let Some(bad) = values.iter().find(|value| **value == 0 || **value as usize > LARGEST) {
            return Err(self.bad(suffix, bad, format!("it has to be 1 to {LARGEST}")));
        }
        Ok(values.into_iter().map(|value| value as usize).collect())
    }

    /// Which layers slide: flags, or a period n where every n-th layer is full.
    fn pattern(&self, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
        let suffix = "attention.sliding_window_pattern";
        let key = self.key(suffix);
        let Some(field) = self.metadata.get(&key) else {
            return Err(ModelError::MissingKey {
                key,
                model: self.model,
                what: "which layers slide",
            });
        };
        let sliding: Vec<bool> = if field.is_array() {
            field.bools()?
        } else {
            let period = field.u32()? as usize;
            if period == 0 {
                return Err(self.bad(suffix, 0, "a period has to be at least 1"));
            }
            (1..=layers).map(|number| !number.is_multiple_of(period)).collect()
        };
        if sliding.len() != layers {
            let found = format!("an array of {}", sliding.len());
            return Err(self.bad(
                suffix,
                found,
                format!("it has to have one entry for each of {layers} layers"),
            ));
        }
        let kind = |sliding| if sliding { LayerKind::Sliding } else { LayerKind::Full };
        Ok(sliding.into_iter().map(kind).collect())
    }

    fn head_dim(&self, kind: LayerKind) -> Result<usize, ModelError> {
        let suffix = match kind {
            LayerKind::Sliding => "attention.key_length_swa",
            LayerKind::Full => "attention.key_length",
        };
        let value = suffix.replace("key", "value");
        let keys = self.need(suffix, "the head dim")?;
        let values = self.size(&value)?.unwrap_or(keys);
        if values != keys {
            return Err(self.bad(&value, values, format!("it has to equal the keys' {keys}")));
        }
        if !keys.is_multiple_of(32) || keys > 1024 {
            return Err(self.bad(suffix, keys, "head dims have to be a multiple of 32, at most 1024"));
        }
        Ok(keys)
    }

    fn shape(&self, shared_layers: usize) -> Result<Shape, ModelError> {
        let count = self.need("block_count", "the number of layers")?;
        let heads = self.need("attention.head_count", "the number of query heads")?;
        let kinds = self.pattern(count)?;
        let kv_heads = self.per_layer("attention.head_count_kv", count, "the number of key and value heads")?;
        let ffn = self.per_layer("feed_forward_length", count, "the width of the feed-forward network")?;
        let window = self.size("attention.sliding_window")?.unwrap_or(0);
        if shared_layers > count {
            let wanted = format!("there are {count} layers");
            return Err(self.bad("attention.shared_kv_layers", shared_layers, wanted));
        }
        let mut layers = Vec::new();
        for (index, kind) in kinds.iter().copied().enumerate() {
            if !heads.is_multiple_of(kv_heads[index]) {
                let wanted = format!("{heads} query heads have to be a multiple of it (layer {index})");
                return Err(self.bad("attention.head_count_kv", kv_heads[index], wanted));
            }
            if kind == LayerKind::Sliding && window == 0 {
                let wanted = "sliding layers need a window of at least 1";
                return Err(self.bad("attention.sliding_window", window, wanted));
            }
            layers.push(Layer {
                kind,
                window: (kind == LayerKind::Sliding).then_some(window),
                head_dim: self.head_dim(kind)?,
                kv_heads: kv_heads[index],
                ffn: ffn[index],
                kv_from: index,
            });
        }
        Ok(Shape {
            hidden: self.need("embedding_length", "the width of the model")?,
            heads,
            epsilon: self.real("attention.layer_norm_rms_epsilon", 1e-6)?,
            layers,
            rope_base: f64::from(self.real("rope.freq_base", 1e6)?),
            rope_base_sliding: f64::from(self.real("rope.freq_base_swa", 1e4)?),
        })
    }
}

fn architecture(metadata: &Metadata) -> Result<String, ModelError> {
    Ok(metadata.str("general.architecture")?.unwrap_or("(none)").to_owned())
}

impl TargetConfig {
    /// Reads the metadata of a target.
    ///
    /// # Errors
    /// Another architecture, a mixture of experts, and what is missing or impossible.
    pub fn read(metadata: &Metadata) -> Result<Self, ModelError> {
        let found = architecture(metadata)?;
        if found.starts_with("gemma4") && found.ends_with("assistant") {
            let wanted = "this is an MTP assistant: give it with --mtp-head, and its target with -m";
            return Err(ModelError::Architecture { found, wanted });
        }
        if found != "gemma4" {
            let wanted = "Tilekiln runs `gemma4`";
            return Err(ModelError::Architecture { found, wanted });
        }
        let keys = Keys {
            metadata,
            prefix: "gemma4",
            model: "Gemma 4 model",
        };
        let experts = metadata.u64("gemma4.expert_count")?.unwrap_or(0);
        if experts > 0 {
            return Err(ModelError::Experts { experts });
        }
        let shared = keys.size("attention.shared_kv_layers")?.unwrap_or(0);
        let mut shape = keys.shape(shared)?;
        let own_layers = shape.layers.len() - shared;
        for index in own_layers..shape.layers.len() {
            let kind = shape.layers[index].kind;
            let owner = shape.layers[..own_layers].iter().rposition(|layer| layer.kind == kind);
            let Some(owner) = owner else {
                let wanted = format!("layer {index} would share keys and values, and no layer of its kind owns any");
                return Err(keys.bad("attention.shared_kv_layers", shared, wanted));
            };
            if shape.layers[owner].kv_heads != shape.layers[index].kv_heads {
                let wanted =
                    format!("layer {index} shares the keys of layer {owner}, which has another number of heads");
                return Err(keys.bad("attention.head_count_kv", shape.layers[index].kv_heads, wanted));
            }
            shape.layers[index].kv_from = owner;
        }
        let softcap = metadata.f32("gemma4.final_logit_softcapping")?;
        Ok(Self {
            name: metadata.str("general.name")?.unwrap_or("gemma4").to_owned(),
            shape,
            own_layers,
            context: keys.need("context_length", "the trained context")?,
            ple: keys.size("embedding_length_per_layer_input")?.unwrap_or(0),
            softcap: softcap.filter(|cap| *cap > 0.0 && cap.is_finite()),
        })
    }

    /// The layer that owns what layers of a kind read last: the assistant attends to it.
    pub fn last_owner(&self, kind: LayerKind) -> Option<usize> {
        self.shape.layers[..self.own_layers]
            .iter()
            .rposition(|layer| layer.kind == kind)
    }
}

impl AssistantConfig {
    /// Reads the metadata of an assistant, of either layout.
    ///
    /// # Errors
    /// Another architecture, and what is missing or impossible.
    pub fn read(metadata: &Metadata) -> Result<Self, ModelError> {
        let found = architecture(metadata)?;
        let (prefix, names, backbone) = match found.as_str() {
            "gemma4-assistant" => ("gemma4-assistant", Names::Current, "embedding_length_out"),
            "gemma4_assistant" => ("gemma4_assistant", Names::Legacy, "n_embd_backbone"),
            _ => {
                let wanted = "an assistant (--mtp-head) has to be `gemma4-assistant`";
                return Err(ModelError::Architecture { found, wanted });
            }
        };
        let keys = Keys {
            metadata,
            prefix,
            model: "Gemma 4 assistant",
        };
        Ok(Self {
            shape: keys.shape(0)?,
            backbone: keys.need(backbone, "the width of the target")?,
            top_centroids: keys.size("centroid_top_k")?.unwrap_or(32),
            names,
        })
    }
}
