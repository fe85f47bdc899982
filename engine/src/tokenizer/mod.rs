//! Text to tokens and back: BPE with SentencePiece conventions, as Gemma 4 files describe it.
