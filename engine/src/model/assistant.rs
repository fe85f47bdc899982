//! The MTP assistant: a small network that guesses the next tokens from the target's last hidden vector.
//!
//! It owns no keys and values; each of its layers attends to what the target cached. One step takes a token that the
//! target has not seen yet and a hidden vector, and gives the next token with the next hidden vector, so steps chain.
//! The position stays that of the first token for the whole chain.

use super::ModelError;
use super::choice::ChunkBests;
use super::config::{AssistantConfig, LayerKind};
use super::planner::{
    Attention, CacheBuffers, Forms, LayerContext, Next, Norm, Planner, RowInputs, Rows, Run, Scratch, Sharing, Steps,
    Widths,
};
use super::target::{Shared, Target};
use super::weights::{Contents, LayerExtent, LayerWeights, Loader, Weight};
use crate::gguf;
use crate::plan::{BufferId, BufferTable, Plan, PlanError, Size};

/// A sequence to draft for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftStart {
    /// Its slot. The hidden vector that gave `token` was kept there ([`Target::keep_hidden`]).
    pub slot: u32,
    /// The newest token, not in the cache.
    pub token: u32,
    /// Its position: so many keys are valid.
    pub position: u32,
}

/// A guess.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draft {
    /// The token.
    pub token: u32,
    /// Its probability under the assistant.
    pub probability: f32,
}

/// Everything a drafting step computed, for comparisons with references.
#[derive(Clone, Debug, Default)]
pub struct DraftTrace {
    /// Scores [rows, vocabulary], or [rows, candidates] with a centroid head.
    pub scores: Vec<f32>,
    /// Tokens that the scores belong to, with a centroid head.
    pub candidates: Option<Vec<u32>>,
    /// Chosen centroids [rows, k], best first, with a centroid head.
    pub centroids: Option<Vec<u32>>,
    /// The next hidden vectors [rows, width of the target].
    pub next: Vec<f32>,
}

/// Looks up the tokens of the most likely centroids only.
struct CentroidHead {
    centroids: Weight,
    ordering: BufferId,
    /// Centroids per token, tokens per centroid.
    top: usize,
    per: usize,
    /// Scratch.
    scores: BufferId,
    top_scores: BufferId,
    top_centroids: BufferId,
    candidates: BufferId,
}

/// Which output head drafts use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// All tokens.
    Dense,
    /// The tokens of the most likely centroids.
    Centroids,
}

/// An assistant and its launches.
pub struct Assistant {
    config: AssistantConfig,
    inputs: RowInputs,
    attention: Attention,
    /// Embedding of the token, then the hidden vector.
    joined: BufferId,
    next: BufferId,
    scores: BufferId,
    bests: ChunkBests,
    best: BufferId,
    probability: BufferId,
    centroid_head: Option<CentroidHead>,
    width: usize,
    vocabulary: usize,
    start: Vec<Plan>,
    dense: Vec<Plan>,
    ordered: Vec<Plan>,
}

/// The tensors of an assistant.
struct Network {
    pre: Weight,
    post: Weight,
    head: Weight,
    output_norm: BufferId,
    layers: Vec<LayerWeights>,
    scratch: Scratch,
    /// 0, 1, 2, …
    identity: BufferId,
}

fn mismatch(what: impl Into<String>, assistant: impl ToString, target: impl ToString) -> ModelError {
    ModelError::Mismatch {
        what: what.into(),
        assistant: assistant.to_string(),
        target: target.to_string(),
    }
}

impl Assistant {
    /// Checks that an assistant belongs to its target and writes its plans.
    pub(super) fn take(
        file: &gguf::File,
        config: AssistantConfig,
        target: &Shared<'_>,
        table: &mut BufferTable,
    ) -> Result<(Self, Contents), ModelError> {
        let caches = check(&config, target)?;
        let mut loader = Loader::new(file, config.names, target.options.layout(target.chip.target));
        let vocabulary = loader.rows("token_embd.weight")?;
        if vocabulary != target.vocabulary {
            return Err(mismatch("vocabulary", vocabulary, target.vocabulary));
        }
        let shape = &config.shape;
        let width = config.backbone;
        let frequencies = loader.frequencies(table, shape)?;
        let mut layers = Vec::new();
        for (index, layer) in shape.layers.iter().enumerate() {
            let extent = LayerExtent {
                owns_keys: false,
                ple: 0,
                joins: false,
            };
            layers.push(loader.layer(table, shape, index, extent, frequencies.of(layer.kind))?);
        }
        let identity: Vec<u32> = (0..table.max_rows as u32).collect();
        let slots = target.options.geometry.slots;
        let centroid_head = CentroidHead::take(&config, vocabulary, slots, &mut loader, table)?;
        let [pre, post, head] = [
            ("nextn.pre_projection.weight", shape.hidden, 2 * width),
            ("nextn.post_projection.weight", width, shape.hidden),
            ("token_embd.weight", vocabulary, shape.hidden),
        ]
        .map(|(name, rows, cols)| loader.matrix(table, name, rows, cols));
        let precision = target.options.precision;
        let widths = Widths::of(shape, 2 * width, precision, loader.widest_halves());
        let network = Network {
            pre: pre?,
            post: post?,
            head: head?,
            output_norm: loader.vector(table, "output_norm.weight", shape.hidden)?,
            layers,
            scratch: Scratch::add(table, "draft", shape, widths),
            identity: loader.made(table, "identity", bytemuck::cast_slice(&identity)),
        };
        let steps = Steps::of_assistant(&target.options.geometry);
        let how = (target.options.kv, precision);
        let mut assistant = Self {
            attention: Attention::add(table, "draft", target.chip.target, &config.shape, how, steps)?,
            inputs: RowInputs::add(table, "draft"),
            joined: table.scratch("draft.joined", 2 * width),
            next: table.scratch("draft.next", width),
            scores: table.add("draft.scores", crate::plan::BufferKind::Scratch, slots * vocabulary * 4),
            bests: ChunkBests::add(table, "draft", slots, vocabulary),
            best: table.scratch("draft.best", 1),
            probability: table.scratch("draft.probability", 1),
            centroid_head,
            config,
            width,
            vocabulary,
            start: Vec::new(),
            dense: Vec::new(),
            ordered: Vec::new(),
        };
        assistant.write_plans(&network, &caches, target);
        Ok((assistant, loader.finish()))
    }

    fn write_plans(&mut self, network: &Network, caches: &[CacheBuffers], target: &Shared<'_>) {
        let planner = |what: &str, tile: u32| {
            Planner::new(
                format!("{what}, {tile} rows per read"),
                &self.config.shape,
                &network.scratch,
                &self.inputs,
                target.options.precision,
                (&self.attention, Sharing::Decode(0)),
                (target.chip, tile),
            )
        };
        let behind = [self.width, 2 * self.width, self.width];
        let start = target.tiles.plans(|tile| {
            let mut planner = planner("draft start", tile);
            planner.copy_rows("carry", target.carry, self.inputs.slots, self.joined, behind);
            planner.finish()
        });
        let step = |what: &str, tile: u32, head: Head| {
            let mut planner = planner(what, tile);
            let x = self.step(network, caches, (target, head), &mut planner);
            self.choose(network, head, x, &mut planner);
            planner.copy_rows("chain", self.next, network.identity, self.joined, behind);
            planner.finish()
        };
        let dense = target.tiles.plans(|tile| step("draft", tile, Head::Dense));
        let ordered = match self.centroid_head {
            Some(_) => target
                .tiles
                .plans(|tile| step("draft from centroids", tile, Head::Centroids)),
            None => Vec::new(),
        };
        (self.start, self.dense, self.ordered) = (start, dense, ordered);
    }

    /// From token and hidden vector to the final norm.
    fn step(
        &self,
        network: &Network,
        caches: &[CacheBuffers],
        (target, head): (&Shared<'_>, Head),
        planner: &mut Planner<'_>,
    ) -> Rows {
        let scratch = &network.scratch;
        let scale = (self.width as f64).sqrt() as f32;
        let tokens = self.inputs.tokens;
        planner.embed("embed", target.embedding, tokens, self.joined, 2 * self.width, scale);
        let pre = [("pre_projection", &network.pre, scratch.residual)];
        planner.products("nextn", Rows::floats(self.joined), &pre);
        let labels: Vec<String> = network
            .layers
            .iter()
            .map(|layer| format!("{}.attn_norm", layer.name))
            .collect();
        let mut forms = Forms::of([&network.post, self.scores_matrix(network, head)]);
        // scores of candidates are products with f32
        forms.floats |= head == Head::Centroids;
        let output_norm = Norm {
            label: "output_norm",
            w: network.output_norm,
            to: scratch.normed,
            forms,
        };
        let mut x = Rows::floats(scratch.residual);
        for (index, (layer, weights)) in self.config.shape.layers.iter().zip(&network.layers).enumerate() {
            if index == 0 {
                x = planner.norm(planner.norm_before(weights, &labels[0]));
            }
            let next = match network.layers.get(index + 1) {
                Some(next) => planner.norm_before(next, &labels[index + 1]),
                None => output_norm,
            };
            let context = LayerContext {
                cache: caches[index],
                embeddings: None,
            };
            x = planner.layer(layer, weights, context, x, Next::Norm(next));
        }
        x
    }

    /// What a head multiplies the final hidden vector with.
    fn scores_matrix<'n>(&'n self, network: &'n Network, head: Head) -> &'n Weight {
        match (&self.centroid_head, head) {
            (Some(centroids), Head::Centroids) => &centroids.centroids,
            _ => &network.head,
        }
    }

    /// Scores, the best token, and its probability.
    fn choose(&self, network: &Network, head: Head, x: Rows, planner: &mut Planner<'_>) {
        let normed = network.scratch.normed;
        let post = ("post_projection", &network.post, self.next);
        match (&self.centroid_head, head) {
            (Some(centroids), Head::Centroids) => {
                let scores = ("centroids", &centroids.centroids, centroids.scores);
                planner.products("nextn", x, &[post, scores]);
                let count = centroids.centroids.rows;
                let top = [centroids.scores, centroids.top_scores, centroids.top_centroids];
                planner.top_k(top, count, centroids.top);
                let buffers = [
                    centroids.ordering,
                    centroids.top_centroids,
                    normed,
                    self.scores,
                    centroids.candidates,
                ];
                planner.candidate_scores(&network.head, buffers, centroids.top, centroids.per);
                let cols = centroids.top * centroids.per;
                planner.argmax(self.scores, self.best, cols);
                planner.confidence(self.scores, self.best, self.probability, cols);
                planner.take(centroids.candidates, self.best, self.inputs.tokens, cols);
            }
            _ => {
                let scores = ("output", &network.head, self.scores);
                planner.products("nextn", x, &[post, scores]);
                planner.best_token(self.scores, self.bests, self.inputs.tokens, self.vocabulary);
                planner.confidence(self.scores, self.inputs.tokens, self.probability, self.vocabulary);
            }
        }
    }

    /// All plans.
    pub(super) fn plans(&self) -> impl Iterator<Item = &Plan> {
        [&self.start, &self.dense, &self.ordered].into_iter().flatten()
    }

    /// What the file says of it.
    pub fn config(&self) -> &AssistantConfig {
        &self.config
    }

    /// The head that drafts use: centroids where the file has them.
    pub fn head(&self) -> Head {
        if self.centroid_head.is_some() {
            Head::Centroids
        } else {
            Head::Dense
        }
    }
}

impl CentroidHead {
    fn take(
        config: &AssistantConfig,
        vocabulary: usize,
        slots: usize,
        loader: &mut Loader<'_>,
        table: &mut BufferTable,
    ) -> Result<Option<Self>, ModelError> {
        let damaged = |what: String| Err(ModelError::DamagedAssistant(what));
        let names = ["masked_embd_ordering", "masked_embd_ordering.weight"];
        let ordering = names.into_iter().find(|name| loader.has(name));
        let (true, Some(ordering)) = (loader.has("masked_embd_centroids.weight"), ordering) else {
            return Ok(None);
        };
        let count = loader.rows("masked_embd_centroids.weight")?;
        if !vocabulary.is_multiple_of(count) {
            return damaged(format!(
                "{vocabulary} tokens cannot be shared out among {count} centroids"
            ));
        }
        let top = config.top_centroids;
        if top == 0 || top > count {
            return damaged(format!("it looks up {top} of {count} centroids"));
        }
        let tokens = loader.integers(ordering, vocabulary)?;
        let mut seen = vec![false; vocabulary];
        for token in &tokens {
            match usize::try_from(*token).ok().and_then(|token| seen.get_mut(token)) {
                Some(seen) if !*seen => *seen = true,
                _ => {
                    return damaged(format!(
                        "the order of its tokens is no permutation (token {token} occurs twice or does not exist); \
                         convert it again"
                    ));
                }
            }
        }
        let per = vocabulary / count;
        let mut scratch =
            |name: &str, values: usize| table.add(name, crate::plan::BufferKind::Scratch, slots * values * 4);
        let [scores, top_scores, top_centroids, candidates] = [
            ("draft.centroid_scores", count),
            ("draft.top_scores", top),
            ("draft.top_centroids", top),
            ("draft.candidates", top * per),
        ]
        .map(|(name, values)| scratch(name, values));
        Ok(Some(Self {
            centroids: loader.matrix(table, "masked_embd_centroids.weight", count, config.shape.hidden)?,
            ordering: loader.made(table, "masked_embd_ordering", bytemuck::cast_slice(&tokens)),
            top,
            per,
            scores,
            top_scores,
            top_centroids,
            candidates,
        }))
    }
}

/// Checks that the two networks belong together. Returns the target's caches that the assistant's layers read.
fn check(config: &AssistantConfig, target: &Shared<'_>) -> Result<Vec<CacheBuffers>, ModelError> {
    let width = target.config.shape.hidden;
    if config.backbone != width {
        return Err(mismatch("backbone width", config.backbone, width));
    }
    let mut caches = Vec::new();
    for (index, layer) in config.shape.layers.iter().enumerate() {
        let owner = target.config.last_owner(layer.kind);
        let cache = owner.and_then(|owner| Some((&target.config.shape.layers[owner], target.caches[owner]?)));
        let Some((owner, cache)) = cache else {
            let kind = match layer.kind {
                LayerKind::Sliding => "sliding",
                LayerKind::Full => "full",
            };
            let what = format!("layer {index}'s kind of attention");
            return Err(mismatch(what, kind, "without such a layer"));
        };
        let sizes = [
            ("head dim", layer.head_dim, owner.head_dim),
            ("number of key and value heads", layer.kv_heads, owner.kv_heads),
        ];
        for (what, ours, theirs) in sizes {
            if ours != theirs {
                return Err(mismatch(format!("{what} (layer {index})"), ours, theirs));
            }
        }
        if layer.window != owner.window {
            let show = |window: Option<usize>| window.map_or("none".to_owned(), |window| window.to_string());
            return Err(mismatch("sliding window", show(layer.window), show(owner.window)));
        }
        caches.push(cache);
    }
    Ok(caches)
}

impl Target {
    /// Drafts `steps` tokens for each sequence. A chain is worth nothing behind a token that the target rejects, so
    /// callers may cut it where the probability gets small.
    ///
    /// # Errors
    /// No assistant, those of the device.
    pub fn draft(&mut self, starts: &[DraftStart], steps: usize) -> Result<Vec<Vec<Draft>>, ModelError> {
        let head = self.assistant.as_ref().map_or(Head::Dense, Assistant::head);
        self.draft_with(head, starts, steps, |_| ())
    }

    /// Drafts with a chosen head and shows what each step computed.
    ///
    /// # Errors
    /// Those of [`Self::draft`].
    pub fn draft_traced(
        &mut self,
        head: Head,
        starts: &[DraftStart],
        steps: usize,
    ) -> Result<(Vec<Vec<Draft>>, Vec<DraftTrace>), ModelError> {
        let mut traces = Vec::new();
        let mut failed = None;
        let rows = starts.len();
        let drafts = self.draft_with(head, starts, steps, |target| match target.draft_trace(head, rows) {
            Ok(trace) => traces.push(trace),
            Err(error) => failed = Some(error),
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok((drafts, traces)),
        }
    }

    fn draft_trace(&self, head: Head, rows: usize) -> Result<DraftTrace, PlanError> {
        let Some(assistant) = &self.assistant else {
            return Ok(DraftTrace::default());
        };
        let read = |buffer, width: usize| self.machine.read(buffer, 0, rows * width);
        let next = self.machine.read(assistant.next, 0, rows * assistant.width)?;
        match (&assistant.centroid_head, head) {
            (Some(centroids), Head::Centroids) => {
                let cols = centroids.top * centroids.per;
                Ok(DraftTrace {
                    scores: self.machine.read(assistant.scores, 0, rows * cols)?,
                    candidates: Some(read(centroids.candidates, cols)?),
                    centroids: Some(read(centroids.top_centroids, centroids.top)?),
                    next,
                })
            }
            _ => Ok(DraftTrace {
                scores: self.machine.read(assistant.scores, 0, rows * assistant.vocabulary)?,
                next,
                ..DraftTrace::default()
            }),
        }
    }

    fn draft_with(
        &mut self,
        head: Head,
        starts: &[DraftStart],
        steps: usize,
        mut observe: impl FnMut(&Self),
    ) -> Result<Vec<Vec<Draft>>, ModelError> {
        let rows = starts.len();
        let mut drafts = vec![Vec::with_capacity(steps); rows];
        let Some(assistant) = &self.assistant else {
            return Err(ModelError::DamagedAssistant("there is none".to_owned()));
        };
        let slots = self.options().geometry.slots;
        if rows == 0 || rows > slots {
            return Err(PlanError::TooManyRows { rows, limit: slots }.into());
        }
        let inputs = assistant.inputs;
        let column = |value: fn(&DraftStart) -> u32| starts.iter().map(value).collect::<Vec<u32>>();
        self.machine.write(inputs.tokens, &column(|start| start.token))?;
        self.machine.write(inputs.slots, &column(|start| start.slot))?;
        self.machine.write(inputs.positions, &column(|start| start.position))?;
        // the token's own key is not there yet
        self.machine.write(inputs.visible, &column(|start| start.position))?;
        let tile = self.tiles.index(rows);
        let runs = Run::of(starts.iter().map(|start| (start.slot, start.position)));
        let size = Size {
            rows,
            runs: runs.iter().map(|run| run.rows).collect(),
            end: starts.iter().map(|start| start.position as usize).max().unwrap_or(0),
        };
        let plans = match head {
            Head::Centroids if !assistant.ordered.is_empty() => &assistant.ordered,
            _ => &assistant.dense,
        };
        assistant.attention.write_groups(&self.machine, &plans[tile], &runs)?;
        self.machine.run(&[(&assistant.start[tile], &size)])?;
        let (probability, vocabulary) = (assistant.probability, assistant.vocabulary);
        for _ in 0..steps {
            let Some(assistant) = &self.assistant else { break };
            let plans = match head {
                Head::Centroids if !assistant.ordered.is_empty() => &assistant.ordered,
                _ => &assistant.dense,
            };
            self.machine.run(&[(&plans[tile], &size)])?;
            observe(self);
            let tokens: Vec<u32> = self.machine.read(inputs.tokens, 0, rows)?;
            let probabilities: Vec<f32> = self.machine.read(probability, 0, rows)?;
            for (((chain, start), token), probability) in drafts.iter_mut().zip(starts).zip(tokens).zip(probabilities) {
                if token as usize >= vocabulary {
                    return Err(ModelError::NotFinite {
                        position: start.position,
                    });
                }
                chain.push(Draft { token, probability });
            }
        }
        Ok(drafts)
    }
}
