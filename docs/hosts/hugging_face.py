from my_training import make

import lrtune

trainer = lrtune.HuggingFaceTrainer(make)
space = lrtune.Space(lr=(1e-5, 0.1), schedule="linear")
result = lrtune.tune(trainer, space, epochs=4, budget=2.5, seed=0)
print(f"learning rate {result.best_recipe.lr:.3g}, valid_loss {result.best_value:.3g}")
