"""Small models of real architectures as TensorFlow and Keras write them, exported by tf2onnx: see README.md."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
import tf2onnx
from common import main, model

L = tf.keras.layers


def export(path, net, shape, opset=13):
    """A Keras model, or a function of one tensor."""
    spec = [tf.TensorSpec(shape, tf.float32, name="x")]
    if isinstance(net, tf.keras.Model):
        tf2onnx.convert.from_keras(net, input_signature=spec, opset=opset, output_path=str(path))
    else:
        tf2onnx.convert.from_function(tf.function(net, input_signature=spec), input_signature=spec, opset=opset, output_path=str(path))
    return dict(x=np.random.RandomState(7).randn(*shape).astype(np.float32))


def seeded():
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(7)


def weight(*shape, scale=0.3):
    return tf.Variable(tf.random.normal(shape, stddev=scale))


def slopes(n):
    return tf.Variable(tf.random.uniform([n], 0.05, 0.4))


@model
def keras_mobilenet_v3(path):
    """Keras' own blocks: their sigmoid and swish are ReLU6 with two numbers around it."""
    from keras.src.applications import mobilenet_v3 as v3

    seeded()
    x = image = L.Input([32, 32, 3], batch_size=1)
    x = v3.hard_swish(L.Conv2D(8, 3, 2, "same")(x))
    x = v3._inverted_res_block(x, 1, 8, 3, 2, 0.25, v3.relu, 0)
    x = v3._inverted_res_block(x, 2, 8, 5, 2, 0.25, v3.hard_swish, 1)
    x = L.Dense(4)(L.GlobalAveragePooling2D()(x))
    return export(path, tf.keras.Model(image, x), [1, 32, 32, 3])


@model
def keras_fsrcnn(path):
    """Dong et al., Accelerating the Super-Resolution Convolutional Neural Network, with Keras' PReLU."""
    seeded()
    act = lambda: L.PReLU(shared_axes=[1, 2], alpha_initializer=tf.keras.initializers.RandomUniform(0.05, 0.4))
    x = image = L.Input([12, 12, 1], batch_size=1)
    for filters, kernel in [(8, 5), (4, 1), (4, 3), (8, 1)]:
        x = act()(L.Conv2D(filters, kernel, padding="same")(x))
    return export(path, tf.keras.Model(image, L.Conv2DTranspose(1, 9, 2, "same")(x)), [1, 12, 12, 1])


@model
def keras_deepspeech(path):
    """The first layers of Deep Speech: rectifiers that end at 20."""
    seeded()
    x = sound = L.Input([8, 13], batch_size=1)
    for _ in range(3):
        x = L.ReLU(max_value=20)(L.Dense(16)(x))
    x = L.Bidirectional(L.LSTM(8, return_sequences=True))(x)
    return export(path, tf.keras.Model(sound, L.Dense(10, "softmax")(x)), [1, 8, 13])


def facenet_prelu(x, alpha):
    return tf.nn.relu(x) + tf.multiply(alpha, -tf.nn.relu(-x))


@model
def facenet_pnet(path):
    """P-Net of MTCNN as facenet's detect_face writes it."""
    seeded()
    c = [weight(3, 3, i, o) for i, o in [(3, 4), (4, 6), (6, 8)]]
    a = [slopes(4), slopes(6), slopes(8)]
    face, box = weight(1, 1, 8, 2), weight(1, 1, 8, 4)

    def net(x):
        x = facenet_prelu(tf.nn.conv2d(x, c[0], 1, "VALID"), a[0])
        x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = facenet_prelu(tf.nn.conv2d(x, c[1], 1, "VALID"), a[1])
        x = facenet_prelu(tf.nn.conv2d(x, c[2], 1, "VALID"), a[2])
        return tf.nn.softmax(tf.nn.conv2d(x, face, 1, "SAME"), 3), tf.nn.conv2d(x, box, 1, "SAME")

    return export(path, net, [1, 12, 12, 3])


@model
def din_head(path):
    """The head of a Deep Interest Network with the PReLU of its first TensorFlow version."""
    seeded()
    d, e, f = weight(12, 16), weight(16, 8), weight(8, 1)
    a, b = slopes(16), slopes(8)

    def prelu_abs(x, alpha):
        return tf.nn.relu(x) + alpha * (x - tf.abs(x)) * 0.5

    def net(x):
        x = prelu_abs(tf.matmul(x, d), a)
        x = prelu_abs(tf.matmul(x, e), b)
        return tf.sigmoid(tf.matmul(x, f))

    return export(path, net, [3, 12])


@model
def malstm(path):
    """Mueller and Thyagarajan, Siamese Recurrent Architectures: e to the power of a distance."""
    seeded()
    words = L.Input([2, 6, 8], batch_size=1)
    lstm = L.LSTM(8)
    a, b = lstm(words[:, 0]), lstm(words[:, 1])
    K = tf.keras.backend
    y = L.Lambda(lambda t: K.exp(-K.sum(K.abs(t[0] - t[1]), axis=1, keepdims=True)))([a, b])
    return export(path, tf.keras.Model(words, y), [1, 2, 6, 8])


if __name__ == "__main__":
    main()
