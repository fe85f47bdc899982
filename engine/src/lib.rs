//! The Tilekiln engine and its command line.
//!
//! This is where kernels and devices meet: nothing below knows both. From the file upwards: [`gguf`] reads weights
//! and metadata, [`tokenizer`] and [`chat`] turn text into tokens and back, [`model`] says what a Gemma 4 file is and
//! which launches compute it ([`plan`] holds launches as data and runs them on any device), [`kv`] is where keys and
//! values live, [`tune`] finds how a device is to divide products, [`spec`] drafts with the assistant, [`sample`] picks tokens, [`schedule`] serves many requests at once
//! from one model, and [`server`] speaks HTTP.

pub mod bench;
pub mod chat;
pub mod cli;
pub mod gguf;
pub mod kv;
pub mod model;
pub mod plan;
pub mod sample;
pub mod sanitize;
pub mod schedule;
pub mod server;
pub mod spec;
pub mod synth;
pub mod tokenizer;
pub mod tune;
