//! Attention over a cache of keys and values in pages.

pub mod cache_read;
pub mod cache_write;
pub mod codec;
pub mod combine;
pub mod exact;
mod examples;
mod finish;
pub mod flash;
pub mod formats;
pub mod kv_block;
pub mod kv_float;
pub mod kv_turbo;
pub mod pages;
pub mod partition;
pub mod prepare;
pub mod queries;
mod rotate_back;
mod scores;
pub mod shapes;
mod values;
