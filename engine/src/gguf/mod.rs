//! GGUF files: reading, checking, writing. Format: GGUF v3.
