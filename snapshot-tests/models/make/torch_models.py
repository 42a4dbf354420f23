"""Small models of real architectures, exported by torch.onnx, ONNX Runtime's quantiser and skl2onnx: see README.md."""

import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers as T
from common import main, model, without_notes

T.logging.set_verbosity_error()
SMALL = dict(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)


def seeded():
    torch.manual_seed(7)
    np.random.seed(7)


def drawn(net):
    """Parameters that a library begins with ones and zeros, as if they had been trained: else a norm's scale would be none."""
    with torch.no_grad():
        for t in [*net.parameters(), *net.buffers()]:
            if t.is_floating_point() and t.numel() > 1 and bool((t == t.flatten()[0]).all()):
                t += torch.rand_like(t) * 0.4 - 0.1
    return net.eval()


class Flat(nn.Module):
    """`call(net, …)` as a module with tensors as results."""

    def __init__(self, net, call):
        super().__init__()
        self.net, self.call = net, call

    def forward(self, *args):
        return self.call(self.net, *args)


def export(path, net, feeds, call=None, opset=17, dynamo=False, draw=True):
    net = drawn(net) if draw else net.eval()
    flat = Flat(net, call).eval() if call else net
    for p in flat.parameters():
        p.requires_grad_(False)
    names = list(feeds)
    more = dict(external_data=False, verbose=False) if dynamo else {}
    with torch.no_grad():
        torch.onnx.export(flat, tuple(feeds.values()), str(path), input_names=names, opset_version=opset, dynamo=dynamo, **more)
    if dynamo:
        without_notes(path)
    return {n: a.numpy() for n, a in feeds.items()}


def tokens(n=6, vocab=40, **more):
    return dict(input_ids=torch.randint(2, vocab, (1, n)), **more)


def image(size=32, channels=3):
    return dict(image=torch.randn(1, channels, size, size))


def text(cls, config, path, opset=17, **kw):
    config.use_cache = False
    config._attn_implementation = "eager"
    return export(path, cls(config), tokens(), lambda m, i: m(input_ids=i, use_cache=False)[0], opset, **kw)


@model
def llama_lora(path):
    from peft import LoraConfig, get_peft_model

    seeded()
    config = T.LlamaConfig(**SMALL, num_key_value_heads=1, use_cache=False, attn_implementation="eager")
    net = get_peft_model(T.LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return export(path, net, tokens(), lambda m, i: m(input_ids=i, use_cache=False).logits, 18, dynamo=True)


@model
def gemma4(path):
    seeded()
    config = T.Gemma4TextConfig(**SMALL, num_key_value_heads=1, head_dim=8, global_head_dim=8, sliding_window=4, layer_types=["full_attention"], hidden_size_per_layer_input=4, vocab_size_per_layer_input=40, num_kv_shared_layers=0)
    return text(T.Gemma4ForCausalLM, config, path, 18, dynamo=True)


@model
def dory(path):
    seeded()
    return text(T.DoryForCausalLM, T.DoryConfig(**SMALL, num_key_value_heads=1, head_dim=8), path, 18, dynamo=True)


@model
def bloom(path):
    seeded()
    return text(T.BloomForCausalLM, T.BloomConfig(vocab_size=40, hidden_size=16, n_layer=1, n_head=2), path)


@model
def mamba(path):
    seeded()
    config = T.MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4, expand=2, time_step_rank=2)
    return text(T.MambaForCausalLM, config, path, opset=14)


def clip_parts():
    tower = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    words = T.CLIPTextConfig(**tower, vocab_size=40, max_position_embeddings=8, eos_token_id=39, bos_token_id=38, pad_token_id=1)
    sees = T.CLIPVisionConfig(**tower, image_size=16, patch_size=8)
    return words, sees


@model
def clip(path):
    seeded()
    words, sees = clip_parts()
    net = T.CLIPModel(T.CLIPConfig(text_config=words.to_dict(), vision_config=sees.to_dict(), projection_dim=8, attn_implementation="eager"))
    return export(path, net, dict(**tokens(), **image(16)), lambda m, i, x: m(input_ids=i, pixel_values=x).logits_per_image)


@model
def rt_detr(path):
    seeded()
    eyes = T.RTDetrResNetConfig(embedding_size=4, hidden_sizes=[4, 4, 4, 8], depths=[1] * 4, layer_type="basic", out_features=["stage3", "stage4"])
    config = T.RTDetrConfig(backbone_config=eyes, encoder_hidden_dim=8, encoder_in_channels=[4, 8], feat_strides=[16, 32], num_feature_levels=2, encode_proj_layers=[1], d_model=8, num_queries=4, decoder_in_channels=[8, 8], decoder_ffn_dim=8, encoder_ffn_dim=8, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, decoder_n_points=2, num_labels=4, num_denoising=0, anchor_image_size=None, with_box_refine=True)
    return export(path, T.RTDetrForObjectDetection(config), image(64), lambda m, x: (lambda o: (o.logits, o.pred_boxes))(m(x)), 16)


@model
def segformer_f16(path):
    import onnx
    from onnxconverter_common import float16

    seeded()
    config = T.SegformerConfig(depths=[1] * 4, hidden_sizes=[4, 4, 8, 8], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8, mlp_ratios=[2] * 4, num_labels=3)
    feeds = export(path, T.SegformerForSemanticSegmentation(config), image(32), lambda m, x: m(x).logits)
    onnx.save(float16.convert_float_to_float16(onnx.shape_inference.infer_shapes(onnx.load(path)), keep_io_types=True), path)
    return feeds


@model
def convnext(path):
    seeded()
    config = T.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=4)
    return export(path, T.ConvNextForImageClassification(config), image(32), lambda m, x: m(x).logits, 14)


@model
def edgenext(path):
    import timm

    seeded()
    net = timm.models.edgenext.EdgeNeXt(num_classes=4, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), global_block_counts=(0, 1, 0, 1), heads=(2, 2, 2, 2), d2_scales=(2, 2, 3, 4))
    return export(path, net, image(64), opset=13)


@model
def mobilevit(path):
    import timm
    from timm.models import byobnet, mobilevit

    seeded()
    blocks = (
        mobilevit._inverted_residual_block(d=1, c=8, s=2),
        mobilevit._mobilevit_block(d=1, c=8, s=2, transformer_dim=16, transformer_depth=1, patch_size=2, br=2.0),
    )
    config = byobnet.ByoModelCfg(blocks=blocks, stem_chs=8, stem_type="3x3", stem_pool="", num_features=16, act_layer="silu", downsample="")
    return export(path, byobnet.ByobNet(config, num_classes=4), image(32), opset=14)


def byob(name, **changes):
    from timm.models import byobnet

    flat = [b for s in byobnet.model_cfgs[name].blocks for b in (s if isinstance(s, (list, tuple)) else [s])]
    blocks = tuple(byobnet.replace(b, d=1, c=8) for b in flat)
    config = byobnet.replace(byobnet.model_cfgs[name], blocks=blocks, stem_chs=8, **changes)
    return byobnet.ByobNet(config, num_classes=4)


@model
def repvgg(path):
    seeded()
    net = drawn(byob("repvgg_a0")).train()
    for _ in range(30):  # The means and variances of what the layers see, or little of the image would be left in the end.
        net(torch.randn(8, 3, 32, 32))
    return export(path, net, image(32))


class TextCnn(nn.Module):
    """Kim, Convolutional Neural Networks for Sentence Classification, as its PyTorch versions are written."""

    def __init__(self, vocab=40, dim=8, filters=6, sizes=(2, 3, 4), classes=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.convs = nn.ModuleList(nn.Conv2d(1, filters, (k, dim)) for k in sizes)
        self.fc = nn.Linear(filters * len(sizes), classes)

    def forward(self, x):
        x = self.embed(x).unsqueeze(1)
        x = [F.relu(c(x)).squeeze(3) for c in self.convs]
        x = [F.max_pool1d(i, i.size(2)).squeeze(2) for i in x]
        return self.fc(torch.cat(x, 1))


@model
def text_cnn(path):
    seeded()
    return export(path, TextCnn(), tokens(12))


@model
def house_numbers(path):
    """Sermanet et al., Convolutional Neural Networks Applied to House Numbers Digit Classification: pooling by powers."""
    seeded()
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.Tanh(), nn.LPPool2d(4, 2, 2), nn.Conv2d(8, 16, 5), nn.Tanh(), nn.LPPool2d(4, 2, 2),
        nn.Flatten(), nn.Linear(400, 10), nn.Tanh(), nn.Linear(10, 10),
    )
    return export(path, net, image(32))


class Calibration:
    def __init__(self, feeds):
        self.left = iter([feeds])

    def get_next(self):
        return next(self.left, None)


def quantised(path, net, feeds, **kw):
    import tempfile
    import onnxruntime.quantization as Q

    with tempfile.TemporaryDirectory() as d:
        seen = export(f"{d}/float.onnx", net, feeds, opset=13)
        Q.shape_inference.quant_pre_process(f"{d}/float.onnx", f"{d}/ready.onnx", skip_symbolic_shape=True)
        kw = {k: v(f"{d}/ready.onnx") if callable(v) else v for k, v in kw.items()}
        Q.quantize_static(f"{d}/ready.onnx", str(path), Calibration(seen), quant_format=Q.QuantFormat.QDQ, per_channel=True, **kw)
    return seen


def convs(n):
    import onnx

    return lambda path: [x.name for x in onnx.load(path).graph.node if x.op_type == "Conv"][:n]


@model
def mobilenet_v2_mixed(path):
    """The first layer stays in floats, as is advised where it costs accuracy."""
    import torchvision

    seeded()
    net = torchvision.models.MobileNetV2(num_classes=4, width_mult=0.1, inverted_residual_setting=[[1, 8, 1, 1], [2, 8, 1, 2]])
    return quantised(path, net, image(32), nodes_to_exclude=convs(1))


@model
def resnet_mixed(path):
    import timm

    seeded()
    net = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), 4, stem_width=8, channels=(8, 8, 16, 16))
    return quantised(path, net, image(32), nodes_to_exclude=convs(1))


class Crnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d((2, 1)))
        self.l = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.o = nn.Linear(12, 11)

    def forward(self, x):
        h = self.c(x).mean(2).transpose(1, 2)
        return self.o(self.l(h)[0]).log_softmax(-1)


@model
def crnn_qdq(path):
    seeded()
    return quantised(path, Crnn(), dict(image=torch.randn(1, 1, 16, 48)))


def sklearn(path, fit, options=None, classes=3):
    from skl2onnx import to_onnx
    from sklearn.datasets import make_classification

    x, y = make_classification(200, 6, n_informative=4, n_classes=classes, random_state=0)
    x = x.astype(np.float32)
    net = fit(x, y)
    path.write_bytes(to_onnx(net, x[:1], options={id(net): {"zipmap": False}} if options is None else options).SerializeToString())
    return dict(X=x[:4])


@model
def sk_naive_bayes(path):
    from sklearn.naive_bayes import GaussianNB

    return sklearn(path, lambda x, y: GaussianNB().fit(x, y))


@model
def sk_pca_logistic(path):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return sklearn(path, lambda x, y: make_pipeline(StandardScaler(), PCA(4), LogisticRegression()).fit(x, y))


@model
def sk_calibrated(path):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    return sklearn(path, lambda x, y: CalibratedClassifierCV(LinearSVC(), method="sigmoid", cv=2).fit(x, y))


if __name__ == "__main__":
    main()
