"""Other labels than the default one for data sets of tfds: `tfds:clevr?label=count_all`.

A label is a feature with classes ("label_azimuth"), whose neighbouring classes `&bins=16`
merges, or one of `RULES`, computed from other features. The rules are those of VTAB-1k
(1910.04867).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from vit_jax.data._tf import tf
from vit_jax.data.sources.tables.query import parse_query as parse_options
from vit_jax.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Rule:
    """A label computed from features of a record.

    Attributes:
      features: names of the features and their types; each is passed as a flat array.
      names: class names by number.
      compute: function of the features, in order, that returns an int32 scalar.
    """

    features: Mapping[str, tf.DType]
    names: Sequence[str]
    compute: Callable[..., tf.Tensor]

    def __call__(self, found: Mapping[str, tf.SparseTensor]) -> tf.Tensor:
        """The label of a parsed record."""
        return self.compute(*(found[name].values for name in self.features))


def count_all(sizes: tf.Tensor) -> tf.Tensor:
    """The number of objects minus three; CLEVR has 3 to 10."""
    return tf.size(sizes) - 3


def closest_object_distance(coordinates: tf.Tensor) -> tf.Tensor:
    """The interval that holds the distance of the closest object of a CLEVR image.

    Args:
      coordinates: x, y and depth of each object, float (3 * objects,).
    """
    depth = tf.reshape(coordinates, [-1, 3])[:, 2]
    return interval(tf.reduce_min(depth), CLEVR_DISTANCES)


def closest_vehicle_distance(types: tf.Tensor, locations: tf.Tensor) -> tf.Tensor:
    """The interval that holds the distance of the closest vehicle of a KITTI image.

    Args:
      types: type of each object, int (objects,); 0, 1 and 2 are cars, vans and trucks.
      locations: position of each in metres from the camera (right, down, ahead), float
        (3 * objects,).
    """
    ahead = tf.reshape(locations, [-1, 3])[:, 2]
    vehicles = tf.concat([tf.boolean_mask(ahead, types < 3), [NO_VEHICLE]], 0)
    return interval(tf.reduce_min(vehicles), KITTI_DISTANCES)


def interval(value: tf.Tensor, thresholds: Sequence[float]) -> tf.Tensor:
    """The number of the last threshold below `value`: int32 scalar, from 0."""
    below = tf.constant(thresholds, tf.float32) < tf.cast(value, tf.float32)
    return tf.reduce_sum(tf.cast(below, tf.int32)) - 1


def binned(value: tf.Tensor, classes: int, bins: int) -> tf.Tensor:
    """Merges neighbouring classes: the bin of a class, int32 scalar."""
    return tf.cast(tf.reshape(value, []) * bins // classes, tf.int32)


CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
NO_VEHICLE = 1000.0

# Data set -> label -> rule.
RULES = dict(
    clevr=dict(
        count_all=Rule({"objects/size": tf.int64}, [str(i) for i in range(3, 11)], count_all),
        closest_object_distance=Rule(
            {"objects/pixel_coords": tf.float32},
            ["to 8", "to 8.5", "to 9", "to 9.5", "to 10", "beyond 10"],
            closest_object_distance,
        ),
    ),
    kitti=dict(
        closest_vehicle_distance=Rule(
            {"objects/type": tf.int64, "objects/location": tf.float32},
            ["to 8 m", "to 20 m", "beyond 20 m", "no vehicle"],
            closest_vehicle_distance,
        ),
    ),
)


def parse_query(dataset: str) -> tuple[str, str, int]:
    """ "dsprites:2?label=label_orientation&bins=16" -> the part before, label, bins.

    Raises:
      InputError: an option other than label and bins, or bins that are not a number.
    """
    text = dataset
    dataset, options = parse_options(dataset)
    asked = bool(options) or "?" in dataset
    label, bins = options.pop("label", ""), options.pop("bins", "0")
    if options or (asked and not label) or not bins.isdecimal():
        raise InputError(f"bad data source tfds:{text}; write ?label=NAME or "
                         "?label=NAME&bins=NUMBER")  # fmt: skip
    return dataset, label, int(bins)


def find(dataset: str, label: str, bins: int, classes: Mapping[str, Sequence[str]]) -> Rule:
    """The rule that a label names.

    Args:
      dataset: name of the tfds data set.
      label: name of a rule or a key of `classes`.
      bins: number of classes after merging; 0: do not merge.
      classes: class names of each feature that has classes.

    Raises:
      InputError: an unknown label, or a wrong number of bins.
    """
    rules = RULES.get(dataset, {})
    if label not in rules and label not in classes:
        raise unknown(f"label of tfds:{dataset}", label, [*rules, *classes])
    names = rules[label].names if label in rules else list(classes[label])
    if bins and (label in rules or not 2 <= bins <= len(names)):
        raise InputError(
            f"tfds:{dataset}?label={label}&bins={bins}: a feature of {len(names)} classes has "
            f"2 to {len(names)} bins, a rule none"
        )
    if label in rules:
        return rules[label]
    count, bins = len(names), bins or len(names)
    members = [
        [name for i, name in enumerate(names) if i * bins // count == b] for b in range(bins)
    ]
    return Rule(
        {label: tf.int64},
        [group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in members],
        lambda value: binned(value, count, bins),
    )
