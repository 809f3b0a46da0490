import json
import subprocess
import sys

HEAVY = {"jax", "flax", "tensorflow", "orbax", "torch"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def modules_after(code):
    """Names of the modules that a fresh interpreter has loaded after running `code`."""
    result = run(f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))")
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_loads_neither_jax_nor_tensorflow():
    loaded = modules_after("import vit_jax; vit_jax.__version__")
    assert "vit_jax" in loaded
    assert not HEAVY & loaded


def test_models_and_checkpoints_do_without_tensorflow():
    loaded = modules_after("import vit_jax\nfor name in vit_jax.__all__: getattr(vit_jax, name)")
    assert {"vit_jax.models", "vit_jax.checkpoint"} <= loaded
    assert "tensorflow" not in loaded


def test_mistakes_in_options_are_refused_without_tensorflow(tmp_path):
    mistakes = ("data.source=digit", "data.source=folder:/nowhere", "data.split=none",
                "data.pp=none", "model.patch_size=5", "batch_size=0")  # fmt: skip
    code = f"""
from vit_jax.cli.main import main
for mistake in {mistakes}:
    words = ["--config=configs/quickstart.py:pretrain", "--workdir={tmp_path}/run"]
    assert main(["train", *words, "--config." + mistake]) == 2, mistake
"""
    assert "tensorflow" not in modules_after(code)


def test_dir_lists_the_public_names_without_importing_them():
    code = "import vit_jax; assert set(vit_jax.__all__) <= set(dir(vit_jax)), dir(vit_jax)"
    assert not HEAVY & modules_after(code)


def test_an_unknown_name_is_an_attribute_error():
    assert (
        "AttributeError: module 'vit_jax' has no attribute"
        in run("import vit_jax; vit_jax.create_modle").stderr
    )


def test_a_quick_import_collects_no_garbage_and_leaves_the_collector_as_it_was():
    code = """
import gc, sys
from vit_jax.cli.startup import import_quickly
seen = []
gc.callbacks.append(lambda phase, info: seen.append(phase))
module = import_quickly("flax.nnx")
assert module is sys.modules["flax.nnx"] and not seen and gc.isenabled()
assert gc.get_freeze_count() > 10_000
try:
    import_quickly("vit_jax.absent")
except ModuleNotFoundError:
    assert gc.isenabled()
gc.disable()
import_quickly("optax")
assert not gc.isenabled()
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
