//! Attention over a cache of keys and values.

pub mod attend;
pub mod cache_write;
pub mod codec;
pub mod flash;
pub mod kv_f16;
pub mod kv_turbo3;
