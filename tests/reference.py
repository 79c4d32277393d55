"""What a file of Stable-Baselines3 plays, by its own arithmetic in PyTorch; shares no code with the reader.

Each algorithm's forward pass is written out from the names of its tensors, as its library computes it.
"""

import io
import json
import pickle
import zipfile

import numpy as np
import torch

torch.set_num_threads(1)
FUNCTIONS = {"ReLU": torch.relu, "Tanh": torch.tanh}


class Agent:
    """Greedy actions of a zip for observations as its environment gives them."""

    def __init__(self, path, statistics=None):
        with zipfile.ZipFile(path) as archive:
            self.data = json.loads(archive.read("data"))
            self.weights = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        self.statistics = statistics and stand_in(statistics)
        self.algorithm = path.parent.name
        text = str(self.data["policy_kwargs"].get("activation_fn", "")).removesuffix("'>").split(".")[-1]
        self.function = FUNCTIONS[text or ("Tanh" if self.algorithm in ("ppo", "a2c", "trpo") else "ReLU")]

    def normalise(self, observations):
        if self.statistics is None:
            return observations.astype(np.float32)
        mean, var, epsilon, clip = self.statistics
        return np.clip((observations - mean) / np.sqrt(var + epsilon), -clip, clip).astype(np.float32)

    def linear(self, x, name):
        return torch.nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def outputs(self, observations):
        """What the actor's last layer gives."""
        w, f, linear = self.weights, self.function, self.linear
        x = torch.as_tensor(self.normalise(observations))
        if "features_extractor.cnn.0.weight" in w:
            x = x.permute(0, 3, 1, 2) / 255
            for place, stride in ((0, 4), (2, 2), (4, 1)):
                weight, bias = (w[f"features_extractor.cnn.{place}.{part}"] for part in ("weight", "bias"))
                x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride=stride))
            return linear(torch.relu(linear(x.flatten(1), "features_extractor.linear.0")), "action_net")
        if self.algorithm in ("ppo", "a2c", "trpo"):
            return linear(f(linear(f(linear(x, "mlp_extractor.policy_net.0")), "mlp_extractor.policy_net.2")), "action_net")
        if self.algorithm in ("sac", "tqc"):
            x = f(linear(f(linear(x, "actor.latent_pi.0")), "actor.latent_pi.2"))
            if "actor.mu.weight" in w:
                return linear(x, "actor.mu")
            return torch.clamp(linear(x, "actor.mu.0"), -2, 2)
        if self.algorithm == "ars" and "action_net.weight" in w:
            return linear(x, "action_net")
        prefix = {"ars": "action_net", "dqn": "q_net.q_net", "ddpg": "actor.mu", "td3": "actor.mu"}
        name = prefix.get(self.algorithm, "quantile_net.quantile_net")
        x = f(linear(x, f"{name}.0"))
        if f"{name}.4.weight" in w:
            x = f(linear(x, f"{name}.2"))
        x = linear(x, f"{name}.4" if f"{name}.4.weight" in w else f"{name}.2")
        if self.algorithm == "qrdqn":
            x = x.view(len(x), self.data["n_quantiles"], self.data["action_space"]["n"]).mean(dim=1)
        return x

    def act(self, observations):
        with torch.no_grad():
            outputs = self.outputs(observations)
        space = self.data["action_space"]
        if "n" in space:
            return outputs.argmax(dim=1).numpy()
        low, high = (np.array(space[name].strip("[]").split(), np.float32) for name in ("low", "high"))
        if self.algorithm in ("sac", "tqc", "ddpg", "td3"):
            return low + 0.5 * (torch.tanh(outputs).numpy() + 1) * (high - low)
        return np.clip(outputs.numpy(), low, high)


class StandIn:
    """Any class of a pickle; the Zoo's files are trusted here."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


def stand_in(path):
    """Mean, variance, epsilon and clip of a vecnormalize.pkl."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if module.split(".")[0] != "numpy" or module.startswith("numpy.random"):
                return StandIn
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)

    with open(path, "rb") as file:
        found = Unpickler(file).load()
    assert found.norm_obs
    return found.obs_rms.mean, found.obs_rms.var, found.epsilon, found.clip_obs
