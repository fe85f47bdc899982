//! Which tensors and keys the two files have.

use super::Options;
use super::config::{Config, fitting, gets_more_bits};
use super::vocabulary::{SUPPRESSED, Vocabulary};
use crate::gguf::{TensorType, Writer};

/// Where the bytes of a tensor come from.
#[derive(Clone, Debug)]
pub(super) enum Fill {
    /// Random weights of this deviation.
    Random(f32),
    /// The same value everywhere.
    Constant(f32),
    /// These values.
    Values(Vec<f32>),
    /// Embedding rows of the target.
    Embedding,
    /// Output rows of the target: the embedding of the word before.
    Output,
    /// Output rows of the assistant.
    AssistantOutput,
    /// The projection in front of the assistant.
    PreProjection,
    /// The centroids of the assistant's ordered head.
    Centroids,
    /// Token ids by centroid.
    Ordering,
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) kind: TensorType,
    pub(super) fill: Fill,
}

/// A file to be written.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) writer: Writer,
    pub(super) tensors: Vec<Planned>,
}

/// Deviation of all random weights but the embeddings.
pub(super) const DEVIATION: f32 = 0.02;

/// Layers of an assistant that have a sliding window.
const ASSISTANT_SLIDING: [bool; 4] = [true, true, true, false];

/// Plain chat in the format of Gemma 4.
const TEMPLATE: &str = "{{ bos_token }}\
    {% for message in messages %}\
    <|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n\
    {{ message['content'] | trim }}<turn|>\n\
    {% endfor %}\
    {% if add_generation_prompt %}<|turn>model\n{% endif %}";

impl Plan {
    fn add(&mut self, name: String, dims: &[usize], kind: TensorType, fill: Fill) {
        self.writer.tensor(&name, dims, kind);
        self.tensors.push(Planned {
            name,
            dims: dims.to_vec(),
            kind,
            fill,
        });
    }

    /// Random weights, in the type that fits their rows.
    fn weight(&mut self, name: String, dims: [usize; 2], kind: TensorType) {
        self.add(name, &dims, fitting(kind, dims[0]), Fill::Random(DEVIATION));
    }

    fn norm(&mut self, name: String, width: usize, value: f32) {
        self.add(name, &[width], TensorType::F32, Fill::Constant(value));
    }

    /// Divisors of the rotation of full layers: a quarter of the pairs turns.
    fn rope_frequencies(&mut self, head: usize) {
        let (pairs, turning) = (head / 2, head / 8);
        let values = (0..pairs).map(|pair| if pair < turning { 1.0 } else { 1e30 }).collect();
        self.add(
            "rope_freqs.weight".into(),
            &[pairs],
            TensorType::F32,
            Fill::Values(values),
        );
    }
}

/// What a file says that target and assistant have in common.
struct Shape<'a> {
    architecture: &'a str,
    width: usize,
    feed_forward: Vec<usize>,
    heads: usize,
    sliding: &'a [bool],
    shared: usize,
    per_layer_width: usize,
}

fn writer(config: &Config, shape: &Shape<'_>) -> Writer {
    let mut writer = Writer::new();
    let number = |value: usize| value as u32;
    writer
        .set("general.architecture", shape.architecture)
        .set(
            "general.name",
            &format!("{} {} synthetic", shape.architecture, config.name),
        )
        .set("general.file_type", &15_u32)
        .set("general.quantization_version", &2_u32);
    let mut set = |key: &str, value: u32| {
        writer.set(&format!("{}.{key}", shape.architecture), &value);
    };
    set("block_count", number(shape.sliding.len()));
    set("context_length", number(config.context));
    set("embedding_length", number(shape.width));
    set("attention.head_count", number(shape.heads));
    set("attention.key_length", number(config.head_full));
    set("attention.value_length", number(config.head_full));
    set("attention.key_length_swa", number(config.head_sliding));
    set("attention.value_length_swa", number(config.head_sliding));
    set("rope.dimension_count", number(config.head_full));
    set("rope.dimension_count_swa", number(config.head_sliding));
    set("attention.sliding_window", number(config.window));
    set("attention.shared_kv_layers", number(shape.shared));
    set("embedding_length_per_layer_input", number(shape.per_layer_width));

    let key = |key: &str| format!("{}.{key}", shape.architecture);
    let first = shape.feed_forward[0];
    match shape.feed_forward.iter().all(|&width| width == first) {
        true => writer.set(&key("feed_forward_length"), &number(first)),
        false => {
            let widths: Vec<i32> = shape.feed_forward.iter().map(|&width| width as i32).collect();
            writer.set(&key("feed_forward_length"), &widths)
        }
    };
    let kv_heads = |&sliding: &bool| match sliding {
        true => config.kv_heads_sliding as i32,
        false => config.kv_heads_full as i32,
    };
    match config.kv_heads_sliding == config.kv_heads_full {
        true => writer.set(&key("attention.head_count_kv"), &number(config.kv_heads_full)),
        false => {
            let heads: Vec<i32> = shape.sliding.iter().map(kv_heads).collect();
            writer.set(&key("attention.head_count_kv"), &heads)
        }
    };
    writer
        .set(&key("rope.freq_base"), &1e6_f32)
        .set(&key("rope.freq_base_swa"), &1e4_f32)
        .set(&key("attention.layer_norm_rms_epsilon"), &1e-6_f32)
        .set(&key("attention.sliding_window_pattern"), shape.sliding);

    let vocabulary = Vocabulary::new(config.vocabulary);
    writer
        .set("tokenizer.ggml.model", "gemma4")
        .set("tokenizer.ggml.tokens", &vocabulary.tokens)
        .set("tokenizer.ggml.scores", &vec![-1000_f32; config.vocabulary])
        .set("tokenizer.ggml.token_type", &vocabulary.types)
        .set("tokenizer.ggml.merges", &vocabulary.merges)
        .set("tokenizer.ggml.bos_token_id", &2_u32)
        .set("tokenizer.ggml.eos_token_id", &106_u32)
        .set("tokenizer.ggml.unknown_token_id", &3_u32)
        .set("tokenizer.ggml.padding_token_id", &0_u32)
        .set("tokenizer.ggml.mask_token_id", &4_u32)
        .set("tokenizer.ggml.add_bos_token", &true)
        .set("tokenizer.ggml.add_space_prefix", &false)
        .set("tokenizer.chat_template", TEMPLATE);
    if config.suppress {
        writer.set("tokenizer.ggml.suppress_tokens", &SUPPRESSED[..]);
    }
    writer
}

/// The target model.
pub(super) fn target(config: &Config, options: &Options) -> Plan {
    let (width, vocabulary, layers) = (config.width, config.vocabulary, config.layers);
    let [plain, more, table] = config.types;
    let (sliding, feed_forward) = (config.sliding(), config.feed_forwards());
    let mut writer = writer(
        config,
        &Shape {
            architecture: "gemma4",
            width,
            feed_forward: feed_forward.clone(),
            heads: config.heads,
            sliding: &sliding,
            shared: config.shared_layers,
            per_layer_width: config.per_layer_width,
        },
    );
    writer.set("gemma4.final_logit_softcapping", &30_f32);
    let mut plan = Plan {
        writer,
        tensors: Vec::new(),
    };
    let rows = [width, vocabulary];
    plan.add(
        "token_embd.weight".into(),
        &rows,
        fitting(table, width),
        Fill::Embedding,
    );
    plan.add("output.weight".into(), &rows, fitting(table, width), Fill::Output);
    let per_layer = config.per_layer_width;
    if per_layer > 0 {
        let all = per_layer * layers;
        plan.weight("per_layer_token_embd.weight".into(), [all, vocabulary], table);
        plan.weight("per_layer_model_proj.weight".into(), [width, all], TensorType::F16);
        plan.norm("per_layer_proj_norm.weight".into(), per_layer, 1.0);
    }
    plan.norm("output_norm.weight".into(), width, 1.0);
    plan.rope_frequencies(config.head_full);

    let owning = config.owning_layers();
    let has_values = |layer: usize| layer < owning && (sliding[layer] || !config.k_eq_v);
    let values_count = (0..layers).filter(|&layer| has_values(layer)).count();
    let mut values_before = 0;
    for layer in 0..layers {
        let (head, kv_heads) = match sliding[layer] {
            true => (config.head_sliding, config.kv_heads_sliding),
            false => (config.head_full, config.kv_heads_full),
        };
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        plan.norm(name("attn_norm"), width, 1.0);
        plan.weight(name("attn_q"), [width, config.heads * head], plain);
        plan.norm(name("attn_q_norm"), head, 1.0);
        if layer < owning {
            plan.weight(name("attn_k"), [width, kv_heads * head], plain);
            plan.norm(name("attn_k_norm"), head, 1.0);
        }
        if has_values(layer) {
            let kind = if gets_more_bits(values_before, values_count) {
                more
            } else {
                plain
            };
            plan.weight(name("attn_v"), [width, kv_heads * head], kind);
            values_before += 1;
        }
        plan.weight(name("attn_output"), [config.heads * head, width], plain);
        plan.norm(name("post_attention_norm"), width, options.noise);
        plan.norm(name("ffn_norm"), width, 1.0);
        plan.weight(name("ffn_gate"), [width, feed_forward[layer]], plain);
        plan.weight(name("ffn_up"), [width, feed_forward[layer]], plain);
        let kind = if gets_more_bits(layer, layers) { more } else { plain };
        plan.weight(name("ffn_down"), [feed_forward[layer], width], kind);
        plan.norm(name("post_ffw_norm"), width, options.noise);
        if per_layer > 0 {
            plan.weight(name("inp_gate"), [width, per_layer], plain);
            plan.weight(name("proj"), [per_layer, width], plain);
            plan.norm(name("post_norm"), width, options.noise);
        }
        plan.norm(name("layer_output_scale"), 1, 1.0);
    }
    plan
}

/// The assistant.
pub(super) fn assistant(config: &Config, options: &Options) -> Plan {
    let (shape, backbone) = (&config.assistant, config.width);
    let (width, plain) = (shape.width, config.types[0]);
    let layers = ASSISTANT_SLIDING.len();
    let mut writer = writer(
        config,
        &Shape {
            architecture: "gemma4-assistant",
            width,
            feed_forward: vec![shape.feed_forward; layers],
            heads: shape.heads,
            sliding: &ASSISTANT_SLIDING,
            shared: layers,
            per_layer_width: 0,
        },
    );
    writer
        .set("gemma4-assistant.embedding_length_out", &(backbone as u32))
        .set("gemma4-assistant.nextn_predict_layers", &(layers as u32));
    let centroids = shape.centroids.filter(|_| options.centroids);
    if let Some(count) = centroids {
        writer
            .set("gemma4-assistant.n_centroids", &(count as u32))
            .set("gemma4-assistant.centroid_top_k", &(super::CENTROIDS_SEARCHED as u32));
    }
    let mut plan = Plan {
        writer,
        tensors: Vec::new(),
    };
    plan.add(
        "token_embd.weight".into(),
        &[width, config.vocabulary],
        fitting(TensorType::Q8_0, width),
        Fill::AssistantOutput,
    );
    plan.norm("output_norm.weight".into(), width, 1.0);
    plan.rope_frequencies(config.head_full);
    let name = "nextn.pre_projection.weight".into();
    plan.add(name, &[2 * backbone, width], TensorType::F16, Fill::PreProjection);
    plan.weight(
        "nextn.post_projection.weight".into(),
        [width, backbone],
        TensorType::F16,
    );
    if let Some(count) = centroids {
        let name = "masked_embd_centroids.weight".into();
        plan.add(name, &[width, count], TensorType::F16, Fill::Centroids);
        let name = "masked_embd_ordering".into();
        plan.add(name, &[config.vocabulary], TensorType::I32, Fill::Ordering);
    }
    for (layer, sliding) in ASSISTANT_SLIDING.into_iter().enumerate() {
        let head = if sliding { config.head_sliding } else { config.head_full };
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        plan.norm(name("attn_norm"), width, 1.0);
        plan.weight(name("attn_q"), [width, shape.heads * head], plain);
        plan.norm(name("attn_q_norm"), head, 1.0);
        plan.weight(name("attn_output"), [shape.heads * head, width], plain);
        plan.norm(name("post_attention_norm"), width, options.noise);
        plan.norm(name("ffn_norm"), width, 1.0);
        plan.weight(name("ffn_gate"), [width, shape.feed_forward], plain);
        plan.weight(name("ffn_up"), [width, shape.feed_forward], plain);
        plan.weight(name("ffn_down"), [shape.feed_forward, width], plain);
        plan.norm(name("post_ffw_norm"), width, options.noise);
        plan.norm(name("layer_output_scale"), 1, 1.0);
    }
    plan
}
