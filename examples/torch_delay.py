"""An LSTM of torch learns to remember over a delay that truncation does not bridge.

A bit comes at the first step of each sequence of `DELAY` + 2 steps, and is asked for at the last. The same module is
trained twice, online, with one update per sequence: with OK's untruncated gradient, and with TBPTT over `WINDOW` steps.

Run it with ``python examples/torch_delay.py`` (needs PyTorch: ``pip install okcore[torch]``).
"""

import math

import torch

from okcore.torch import OnlineRNN

DELAY, WINDOW, LANES, HIDDEN = 30, 10, 16, 16
LENGTH = DELAY + 2
ZERO, ONE, BLANK, ASK = range(4)


def sequence():
    """Return a sequence's inputs (LENGTH, LANES) and the bits that are asked for at its end."""
    bits = torch.randint(2, (LANES,))
    blanks = torch.full((DELAY, LANES), BLANK)
    return torch.cat([bits[None], blanks, torch.full((1, LANES), ASK)]), bits


def train(sequences, estimator, **options):
    """Return the mean loss in bits over the last tenth of the sequences."""
    torch.manual_seed(0)
    net, embedding, head = torch.nn.LSTM(4, HIDDEN), torch.nn.Embedding(4, 4), torch.nn.Linear(HIDDEN, 2)
    with torch.no_grad():
        net.bias_ih_l0[HIDDEN : 2 * HIDDEN] += 3  # forget gates start open
    online = OnlineRNN(net, estimator, LANES, embedding, rng=0, **options)
    optimizer = torch.optim.Adam([*online.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(sequences):
        xs, bits = sequence()
        online.reset()
        with torch.no_grad():  # these steps have no loss; the last one's gradient reaches back over them
            for x in xs[:-1]:
                online(x)
        loss = torch.nn.functional.cross_entropy(head(online(xs[-1])), bits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / math.log(2))
    last = losses[-max(1, sequences // 10) :]
    return sum(last) / len(last)


def main(sequences=200):
    """Train both ways; return the losses of OK and of TBPTT."""
    ok = train(sequences, "ok", rank=4, block=8)
    tbptt = train(sequences, "tbptt", horizon=WINDOW)
    print(f"a bit over {DELAY} steps: OK loses {ok:.3f} bits, TBPTT({WINDOW}) {tbptt:.3f}; guessing loses 1")
    return ok, tbptt


if __name__ == "__main__":
    main()
