"""How the shipped families were trained: generated text, exams, a training loop, one module a family."""
