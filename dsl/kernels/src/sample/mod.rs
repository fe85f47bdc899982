//! Choosing tokens from logits on the device: the sampler chain, a few launches for all rows of a step together.
//!
//! | launch | blocks | what it does |
//! | --- | --- | --- |
//! | [`note_tokens`](adjust::note_tokens) | rows / threads | the rows' own tokens join the history of their slots |
//! | [`adjust_logits`](adjust::adjust_logits) | rows | logit bias and penalties, in place |
//! | [`chunk_best`](best::chunk_best) | chunks x rows | the best token of each chunk |
//! | [`chunk_histogram`](histogram::chunk_histogram) | chunks x rows | how many tokens, and how much mass, lie how far below the best |
//! | [`chunk_candidates`](candidates::chunk_candidates) | chunks x rows | lists the tokens among which top-k and top-p end |
//! | [`sampling_cut`](cut::sampling_cut) | rows | where exactly they end |
//! | [`chunk_mass`](draw::chunk_mass) | chunks x rows | the mass that is left in each chunk, at the temperature |
//! | [`draw_token`](draw::draw_token) | rows | one draw |
//!
//! Where nothing is drawn, [`best_token`](best::best_token) behind `chunk_best` is all.
//!
//! **Exact.** Everything behind the logits is integers: logits are ordered by a key of 32 bits ([`mass::order_key`]) and
//! weighed in whole units ([`mass::mass`]), whose sums do not depend on their order. The CPU does the same sums and
//! chooses the same token, always. A row depends on nothing but its logits, its slot's settings and history, and its
//! position.
//!
//! **A cut.** Top-k, top-p and min-p each keep a number of the best tokens, so together they do, too. What is kept are
//! the tokens whose key is above that of the cut, and the first few of those whose key equals it.

pub mod adjust;
pub mod best;
pub mod candidates;
pub mod cut;
pub mod draw;
mod example;
pub mod histogram;
pub mod mass;
pub mod settings;
pub mod share;
pub mod sort;
pub mod wide;

/// In place of a token: not one logit of the row is a number.
pub const NOT_A_NUMBER: u32 = u32::MAX;
/// In place of a token: every logit is minus infinity (or no number).
pub const NOTHING_LEFT: u32 = u32::MAX - 1;
