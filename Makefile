# make tiny: make a city of three blocks, train on it and evaluate, in a minute
# make demo: watch CosPlace learn to recognise places, on a city made on the spot
# make test: check style and run all tests but the long ones
# make test-faults: kill runs, fill disks, break files, for a quarter of an hour at most
# make test-methods: train and evaluate every method on the mini city, in 20 minutes at most
# make test-versions: run the core tests with the oldest and the newest packages of requirements.txt
# make test-gpu: run and measure what needs a GPU, in 8 minutes; installs nothing, uses $(PYTHON)
# make bench: measure how fast everything is, in a quarter of an hour, on Linux; writes benchmarks/results.md
# All but test-versions and test-gpu first make a virtual environment in .venv; a second call
# installs nothing.

PYTHON ?= python3
BIN := .venv/bin
DATA := data/demo
RUNS := logs/demo

NETWORK := --backbone EfficientNet_Lite0 --fc_output_dim 512
TRAINING := --image_size 128 --train_all_layers --lr 5e-4 --epochs_num 8 --iterations_per_epoch 60

TINY := --image_size 64 --batch_size 16 --min_images_per_class 3 --groups_num 2 --train_all_layers --lr 5e-4 \
	--epochs_num 2 --iterations_per_epoch 20

PARALLEL := --numprocesses 3 --dist loadfile

.PHONY: tiny demo test test-faults test-methods test-versions test-gpu bench

tiny: .venv/installed
	$(BIN)/python -m mini_city --preset tiny --folder data/tiny/mini_city --overwrite
	rm -rf logs/tiny
	$(BIN)/python train.py --datasets_folder data/tiny --dataset mini_city $(NETWORK) $(TINY) \
		--save_dir logs/tiny/trained
	$(BIN)/python eval.py --datasets_folder data/tiny --dataset mini_city_test_v1 \
		--resume logs/tiny/trained/best_model.pth --num_preds_to_save 4 --save_dir logs/tiny/evaluated

demo: .venv/installed
	$(BIN)/python -m mini_city --preset demo --folder $(DATA)/mini_city --overwrite
	rm -rf $(RUNS)
	$(BIN)/python eval.py --datasets_folder $(DATA) --dataset mini_city_test_v1 --untrained $(NETWORK) \
		--num_preds_to_save 4 --save_dir $(RUNS)/untrained
	$(BIN)/python train.py --datasets_folder $(DATA) --dataset mini_city $(NETWORK) $(TRAINING) \
		--num_preds_to_save 4 --save_dir $(RUNS)/trained
	$(BIN)/python -m reports.report $(RUNS)/trained
	$(BIN)/python -m reports.compare $(RUNS)/untrained $(RUNS)/trained

test: .venv/installed .venv/installed_for_tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest $(PARALLEL)

test-faults: .venv/installed .venv/installed_for_tests
	$(BIN)/pytest $(PARALLEL) tests/faults -m ""

test-methods: .venv/installed
	rm -rf logs/methods
	$(BIN)/python -m paper.reproduce methods --scale mini --logs_folder logs/methods

test-versions: .venvs/oldest/installed .venvs/newest/installed
	@failed=; for set in oldest newest; do \
		echo "The $$set packages:"; .venvs/$$set/bin/pip list --format=freeze; \
		.venvs/$$set/bin/pytest $(PARALLEL) -m "core and not long" || failed="$$failed $$set"; \
	done; test -z "$$failed" || { echo "Core tests fail with the packages of:$$failed"; exit 1; }

test-gpu:
	$(PYTHON) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'No GPU that torch can use')"
	$(PYTHON) -m pytest -m gpu tests/test_gpu.py
	$(PYTHON) -m benchmarks.training --device cuda --backbones ResNet18 ResNet50 --iterations 30 --max_seconds 180

bench: .venv/installed .venv/installed_for_tests
	$(BIN)/python -m benchmarks.all

# Installs a list of requirements in the tested versions or, where one cannot be had, in others.
install = @echo "Installing $(1)"; $(BIN)/pip install -r $(1) -c constraints.txt || { \
	echo "The tested versions, constraints.txt, cannot be installed here (see above):"; \
	echo "installing the newest versions that $(1) allows."; \
	$(BIN)/pip install -r $(1); }

.venv/installed: requirements.txt constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(call install,requirements.txt)
	touch $@

.venv/installed_for_tests: tests/requirements.txt .venv/installed
	$(call install,tests/requirements.txt)
	touch $@

# The lower bounds, to the letter: Python 3.10 to 3.12 has them all.
.venvs/oldest/installed: requirements.txt tests/requirements.txt
	$(PYTHON) -m venv .venvs/oldest
	sed -n 's/>=\([^,]*\).*/==\1/p' $^ > .venvs/oldest/requirements.txt
	.venvs/oldest/bin/pip install -r .venvs/oldest/requirements.txt
	touch $@

.venvs/newest/installed: requirements.txt tests/requirements.txt
	$(PYTHON) -m venv .venvs/newest
	.venvs/newest/bin/pip install --upgrade -r requirements.txt -r tests/requirements.txt
	touch $@
