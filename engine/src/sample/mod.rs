//! Choosing a token from logits: the sampler chain of a request.

/// What a request wants of its sampler. The default is greedy without adjustments.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Subtracted per occurrence.
    pub frequency_penalty: f32,
    /// How many of the last tokens (prompt included) count for the penalties; 0 switches them off.
    pub penalty_window: usize,
    /// Added to logits, by token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random choices; one is drawn when absent.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}
