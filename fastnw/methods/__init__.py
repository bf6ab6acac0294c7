"""Which pairs are summed. Each method is a module with

``cost(problem, backend, n_threads, dtype) -> Cost | Refusal``
    What it would do and take, or why it cannot. Only its bytes may depend on `n_threads`.
``summarise(model, rung) -> core.model.Summary``
    What it keeps of the keys, and how it sums. A method only sums, with bounds: `core.judge` decides which queries are
    answered, and `core.driver` takes the others to the next rung of the ladder.
"""

NAMES = ("auto", "exact", "tree", "moments", "fourier")
