//! Assistants against the golden drafts.
