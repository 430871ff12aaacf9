#!/bin/sh
# Noise against cost while a network is trained by exact gradients: estimators of every kind see the same steps, and the
# errors of their gradients and their times are measured. `results.py noise runs/noise` and `draw` make docs/results/noise.svg:
#
#   sh experiments/noise.sh delay --hidden 32 --steps 60000 --out runs/noise/delay-32
#   sh experiments/noise.sh copy --preset paper --steps 15000 --out runs/noise/copy-128
task=$1
shift
for rank in 2 4 8 16; do
    for block in 1 4 16; do
        set -- "$@" --with "ok rank=$rank block=$block tolerance=0"
    done
done
for tolerance in 0.03 0.1 0.3; do
    set -- "$@" --with "ok rank=16 block=16 tolerance=$tolerance"
done
exec okcore compare "$task" "$@" --estimator rtrl --block auto --threads 1 \
    --with "kf-rtrl rank=1 block=1" --with uoro --with snap1 --with "tbptt block=25" --with "tbptt block=100"
