//! Conversations as prompts: the chat template of a file.
