# make demo: watch CosPlace learn to recognise places, on a city made on the spot
# make test: check style and run all tests
# Both make a virtual environment in .venv first; a second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
CITY := data/mini_city
RUNS := logs/demo

DEMO_NETWORK := --backbone EfficientNet_Lite0 --fc_output_dim 512
DEMO_TRAINING := --image_size 128 --train_all_layers --lr 5e-4 \
	--epochs_num 16 --iterations_per_epoch 50

.PHONY: demo test

demo: .venv/installed
	$(BIN)/python -m datasets.mini_city --preset demo --folder $(CITY)
	rm -rf $(RUNS)
	$(BIN)/python eval.py --dataset mini_city_test_v1 $(DEMO_NETWORK) --save_dir $(RUNS)/untrained
	$(BIN)/python train.py --dataset mini_city $(DEMO_NETWORK) $(DEMO_TRAINING) \
		--num_preds_to_save 4 --save_dir $(RUNS)/trained
	$(BIN)/python -m reports.compare $(RUNS)/untrained $(RUNS)/trained

test: .venv/installed .venv/installed_for_tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.txt
	touch $@

.venv/installed_for_tests: tests/requirements.txt .venv/installed
	$(BIN)/pip install -r tests/requirements.txt
	touch $@
