"""minikd side by side with PyTorch: the same weights, the same batches, each side in a process of its own.

`python -m benchmarks` measures, prints a table and writes every round to a JSON file; `--help` says what can be chosen.
The two sides take turns, and their results (losses, or the tokens written) must agree, else it stops. A ratio is the
time of minikd over that of PyTorch: below 1, minikd is the faster one. `median`, `min` and `max` are over the rounds,
`best` is the best round of each side against the other's, which other work on the machine disturbs least.

minikd has its C library keep freed memory; PyTorch runs as it is installed. For PyTorch with the same setting:

    MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 python -m benchmarks

Reading order: cases (what is measured), torch_gpt2 and torch_side, minikd_side, worker (the process that runs a side),
harness (turns and ratios), __main__ (the command).
"""
