"""Actor-critic with eligibility traces on a T-maze that must be remembered (Bakker 2002), in plain NumPy.

The first step of an episode shows which arm holds the reward; then all that is seen is a corridor, and at its end a
junction. 16 lanes act side by side. The TD error arrives one step after the choice it judges, and judges all choices
before it: each lane keeps a trace of its own of past gradients, so each lane's gradient is needed apart.

    e_b <- gamma lambda e_b + d(log pi(a_b) + c V_b) / dtheta,    theta <- theta + rate sum_b delta_b e_b

Run it with ``python examples/actor_critic.py``.
"""

import numpy as np

import okcore

LANES, HIDDEN, CORRIDOR = 16, 16, 5
GAMMA, LAMBDA, CRITIC = 0.95, 0.9, 0.5
FORWARD, LEFT, RIGHT = range(3)
ARM_LEFT, ARM_RIGHT, INSIDE, JUNCTION = range(4)  # what is seen


class TMazes:
    """Mazes side by side; a lane that turns at the junction starts its next episode."""

    def __init__(self, rng):
        self.rng, self.place, self.arm = rng, np.zeros(LANES, int), rng.integers(2, size=LANES)

    def see(self):
        """Return what each lane sees, (LANES,) symbols."""
        return np.where(self.place == 0, self.arm, np.where(self.place < CORRIDOR, INSIDE, JUNCTION))

    def act(self, action):
        """Return rewards and which episodes are over: 1 or -1 for a turn at the junction, -0.1 for a wall."""
        at_junction, forward = self.place == CORRIDOR, action == FORWARD
        done = at_junction & ~forward
        wall = at_junction == forward  # ahead of the junction, and at both sides of the corridor
        reward = np.where(done, np.where(action - LEFT == self.arm, 1.0, -1.0), np.where(wall, -0.1, 0.0))
        self.place = np.where(done, 0, self.place + (forward & ~at_junction))
        self.arm = np.where(done, self.rng.integers(2, size=LANES), self.arm)
        return reward.astype("f"), done


def main(steps=4000):
    """Train; return the share of the right turns among the last tenth of the steps."""
    rng = np.random.default_rng(0)
    mazes, cell = TMazes(rng), okcore.LSTM(4, HIDDEN, rng=1)
    est, adam = okcore.OK(cell, rank=4, block=8, batch_size=LANES, rng=2), okcore.Adam(0.003)
    W = rng.normal(0, 0.1, (4, HIDDEN + 1)).astype("f")  # rows: three actions, the value
    trace, trace_W = np.zeros((LANES, *cell.theta.shape), "f"), np.zeros((LANES, *W.shape), "f")
    lanes, done, turns = np.arange(LANES), np.ones(LANES, bool), []
    reward = value = np.zeros(LANES, "f")
    for t in range(steps):
        h = est.step(mazes.see(), reset=done)
        h1 = np.c_[h, np.ones(LANES, "f")]
        y = h1 @ W.T
        if t > 0:  # what happened since the last choice judges it and those before
            delta = reward + GAMMA * np.where(done, 0, y[:, 3]) - value
            adam.update("theta", cell.theta, -np.einsum("b,bpm->pm", delta, trace) / LANES)
            adam.update("W", W, -np.einsum("b,bpm->pm", delta, trace_W) / LANES)
            trace[done] = trace_W[done] = 0
        policy = np.exp(y[:, :3] - y[:, :3].max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        action = np.minimum((policy.cumsum(axis=1) < rng.random((LANES, 1))).sum(axis=1), 2)
        dy = np.c_[-policy, np.full(LANES, CRITIC, "f")]
        dy[lanes, action] += 1
        trace = GAMMA * LAMBDA * trace + est.gradient(dy @ W[:, :-1], per_lane=True)
        trace_W = GAMMA * LAMBDA * trace_W + dy[:, :, None] * h1[:, None]
        value = y[:, 3]
        reward, done = mazes.act(action)
        if t >= steps - steps // 10:
            turns += list(reward[done] > 0)
    print(f"T-maze: {np.mean(turns):.0%} of {len(turns)} turns are right; without memory it is 50%")
    return np.mean(turns)


if __name__ == "__main__":
    main()
