"""Operations that mirror images at random."""

import numpy as np

from vit_jax.data.ops.op import Op, coin, operation


class Flip(Op):
    """Mirrors along an axis with probability one half."""

    random = True
    exact = True
    axis = 0  # of an image

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf

        heads = tf.bitwise.right_shift(words[0], 31) == 1
        return tf.cond(heads, lambda: tf.reverse(image, [self.axis]), lambda: image)

    def batched(self, images, words, xp):
        heads = coin(words)
        if xp is np:  # mirrors only the images that need it
            mirrored = images.copy()
            mirrored[heads] = np.flip(images[heads], self.axis + 1)
            return mirrored
        return xp.where(heads[:, None, None, None], xp.flip(images, self.axis + 1), images)


@operation("flip_lr")
class FlipLeftRight(Flip):
    """Mirrors left and right with probability one half."""

    axis = 1


@operation("flip_ud")
class FlipUpDown(Flip):
    """Mirrors top and bottom with probability one half."""
