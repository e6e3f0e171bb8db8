import queue
import threading

from my_training import make
from transformers import TrainerCallback

import lrtune


class Hand(TrainerCallback):
    def __init__(self, reports, go):
        self.reports, self.go = reports, go

    def on_evaluate(self, args, state, control, metrics, **more):
        self.reports.put(metrics["eval_loss"])
        self.go.acquire()


def train(recipe):
    reports, go = queue.Queue(), threading.Semaphore(0)
    trainer = make()
    trainer.args.learning_rate, trainer.args.num_train_epochs = recipe.lr, recipe.epochs
    trainer.args.eval_strategy, trainer.args.save_strategy = "epoch", "no"
    trainer.add_callback(Hand(reports, go))
    threading.Thread(target=trainer.train, daemon=True).start()
    for _ in range(recipe.epochs):
        yield {"valid_loss": reports.get()}
        go.release()


space = lrtune.Space(lr=(1e-5, 0.1))
result = lrtune.tune(train, space, epochs=4, budget=2.5, seed=0)
print(f"learning rate {result.best_recipe.lr:.3g}, valid_loss {result.best_value:.3g}")
