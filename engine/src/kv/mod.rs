//! Where keys and values of past positions live.
