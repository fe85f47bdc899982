//! Models against references: what other implementations computed for the same files.
//!
//! Every pair `NAME.gguf`, `NAME.golden.safetensors` of the golden folder is a case; the list is not written here.

mod answers;
mod assistants;
mod caches;
mod support;
mod targets;
