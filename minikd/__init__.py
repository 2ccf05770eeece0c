"""minikd: distil a language model, from scratch, and see that it is right.

A transformer with handwritten backward passes in NumPy, on CuPy where there is a GPU; every differentiable function
returns its value and its pullback, `y, vjp = f(...)`, and forward and derivative stand side by side in one function.

Reading order; each room imports only from rooms above it:

    backend.py      NumPy or CuPy: which device, and the few operations that need another kernel on a GPU
    softmax.py      temperature softmax and log-softmax: the heart of distillation
    nn/             linear, embedding, layer norm, GELU, attention, dropout: one idea a file
    losses/         hard labels, the divergences, the objective that mixes them, and their large-vocabulary form
    models/         configuration, parameters over one flat buffer, GPT-2, generation
    optim.py        AdamW, clipping and the schedule, over the flat buffer
    text/           corpora, tokenizer, token files, batches
    checkpoint.py   run state to resume from; model_folder.py: folders that `transformers` reads
    train.py        the one training loop; workers.py: the threads it computes on
    evaluate.py     how well a model predicts, and how far it is from its teacher
    distill/        one file a method: who sees what, which loss, who moves
    oracle/         is this right? check_vjp, known mistakes, reference vectors, the judge of other people's functions
    job.py          from options to a trained model in its folder
    compare.py      all methods on equal terms; report.py, figures.py: what they gave, in words and pictures
    lesson.py       what the lessons use: a check, a figure; classroom.py: the models they share
    lessons.py      the lessons from outside; notebooks.py: as notebooks
    cli.py          `minikd ...`
"""

from importlib.metadata import version

__version__ = version("minikd")
