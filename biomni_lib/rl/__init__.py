"""Asynchronous reinforcement learning: scheduler, staleness, advantages, losses, learner, weight sync.

Reading order: `recipe` (what is optimised), `advantages`, `losses` and corrections, `aggregation`, `objective` (all of
it as one number), `staleness` (the bound, as arithmetic), `scheduler` (the bound, as a running thing), `worker` (the
rollout process), `learner` (the training side, with `packing`, `adapter` and `optimizers`), `train` (the loop).
"""
