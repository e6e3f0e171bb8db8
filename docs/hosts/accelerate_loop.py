import torch
from accelerate import Accelerator
from my_training import CONFIG, HELD_OUT, TRAIN
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification

import lrtune
from lrtune.schedules import for_recipe


def train(recipe: lrtune.Recipe):
    accelerator = Accelerator(cpu=True)
    model = BertForSequenceClassification(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    loader = DataLoader(TRAIN, batch_size=recipe.batch_size or 16, shuffle=True)
    valid = DataLoader(HELD_OUT, batch_size=80)
    schedule = for_recipe(recipe, recipe.epochs * len(loader))
    # The scheduler stays out of prepare(), which would step it once for each process.
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / (recipe.epochs * len(loader))))
    model, optimizer, loader, valid = accelerator.prepare(model, optimizer, loader, valid)
    for _ in range(recipe.epochs):
        model.train()
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            losses = [model(**batch).loss for batch in valid]
        yield {"valid_loss": accelerator.gather(torch.stack(losses)).mean()}


space = lrtune.Space(lr=(1e-5, 0.1), schedule="linear")
result = lrtune.tune(train, space, epochs=4, budget=2.5, seed=0)
print(f"learning rate {result.best_recipe.lr:.3g}, valid_loss {result.best_value:.3g}")
