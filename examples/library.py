"""Scope in a training loop of one's own: what every batch-norm layer does, while it trains."""

import torch
from conv_images import make_data, make_model

import normscope

model, (batches, _) = make_model(), make_data()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = torch.nn.CrossEntropyLoss()
with normscope.Scope(model, loss=lambda: criterion(model(x), y), optimizer=optimizer, every=10) as scope:
    for x, y in batches:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        scope.step()
for row in scope.table().select(probe="noise", layer="1", step=10):
    print(row["quantity"], row["value"], row["expected"])
