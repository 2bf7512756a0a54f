"""What runs when a model is fitted: one floor below the estimators, and nothing that a user imports.

Every training is a **barrier job**: Spark starts one task for each slot, all at once; the tasks open a group,
each reads its own share of the data once, and then they iterate together, exchanging arrays directly.
The way down::

    models/als.py              models/softmax.py, models/pairwise.py → models/gradient_model.py
         │                          │
    als/job.py                 gradient/job.py            Spark side: ratings in, vectors out
         └────────────┬─────────────┘
                 barrier.py                               packs, runs the jobs, reports progress
         ┌────────────┴─────────────┐
    als/program.py             gradient/program.py        in every task: payloads in, training, rows out
         │                          │
    als/half_step.py           softmax/program.py         the training loop
         │                     pairwise/program.py
         │                          │
         │                     softmax/batch.py           one mini-batch
         │                     pairwise/batch.py
         │                          │
    kernels/least_squares.py   kernels/{bags,pairs,network,losses,optimizer}.py

What they share:

* :mod:`~recsys_spark.training.group`: the group of tasks and its exchanges (``all_to_all``, ``all_reduce``,
  …); the only module that opens connections. :mod:`~recsys_spark.training.tree_sum` makes its sums the same
  to the last bit on any number of tasks.
* :mod:`~recsys_spark.training.barrier`: :class:`~recsys_spark.training.barrier.Program` is what a model gives
  to a barrier job, :func:`~recsys_spark.training.barrier.run_jobs` what every job does.
* :mod:`~recsys_spark.training.ownership`: which task owns which ids, and how ids are numbered.
* :mod:`~recsys_spark.training.interactions`: the events of a task, by user and by item (ALS).
* :mod:`~recsys_spark.training.histories`, :mod:`~recsys_spark.training.side_features`: users' histories
  beside the whole catalogue, with their features (models trained by gradients).
* :mod:`~recsys_spark.training.gradient.steps`: what is learnt by gradients, and the step of Adam that all
  tasks take together.

The words: a **task** is one of the group's processes; a **job** is one barrier stage, of as many iterations
or epochs as ``checkpointInterval`` says; a **program** is what every task of a job runs; an **outcome** is
what a job reports beside its rows.
"""
