"""Train own arrays on a 2x2 grid: mpirun -n 4 python examples/train_arrays.py"""

import numpy as np

import gridnn as gn

rng = np.random.default_rng(0)
x = rng.normal(size=(512, 20)).astype("float32")
y = (x[:, :10].sum(axis=1) > x[:, 10:].sum(axis=1)).astype("int64")

job = gn.init()
L = gn.layers
net = gn.Sequential((20,), L.Linear(64), L.ReLU(), L.Linear(2), L.SoftmaxCrossEntropy())
plan = gn.plan(net, batch=64, ranks=job.size, grid="2x2" if job.size == 4 else f"1x{job.size}")
model = gn.compile(net, plan, job, seed=1)
optimizer = gn.optim.SGD(lr=0.1, momentum=0.9)
for epoch in range(5):
    for start in range(0, 448, 64):
        loss, _ = model.step((x[start : start + 64], y[start : start + 64]), optimizer)
    if job.rank == 0:
        print(f"epoch {epoch + 1}: loss {loss:.4f}")
result = model.evaluate((x[448:], y[448:]))
right = (model.predict(x[448:]).argmax(axis=1) == y[448:]).mean()
if job.rank == 0:
    print(f"test loss {result.loss:.4f}, accuracy {result.accuracy:.1%} = {right:.1%}")
