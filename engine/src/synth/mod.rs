//! Synthetic models with true shapes and a known right answer.
