//! Speculative decoding: drafting with the assistant, verification, acceptance.
