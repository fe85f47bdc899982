//! Gemma 4 models and their assistants: configuration, weights, and the launches that compute them.
