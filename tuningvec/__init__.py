"""Tuning vectors T = θ_ft − θ_pre: measure what fine-tuning writes into a language model."""
