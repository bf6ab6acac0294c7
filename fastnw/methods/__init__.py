"""Methods decide which pairs are summed. Each method is a module with two functions:

``cost(problem, backend, n_threads, dtype) -> Cost | Refusal``
    The predicted work and memory, or the reason why the method refuses the problem: a clause that follows the method's
    name, such as "supports d <= 3, got d = 5". Only the memory may depend on `n_threads`.
``summarise(model, rung) -> core.model.Summary``
    The summary that the method keeps of the keys, and that sums them. A method only sums, with bounds on the errors:
    `core.judge` decides which queries are certified, and `core.driver` passes the others to the ladder's next rung.
"""

NAMES = ("auto", "exact", "tree", "moments", "fourier")
