// @ts-check
// How an environment is made elsewhere: texts to copy, each with the arguments and the seed that the form holds.
import { pythonText } from './format.js';

/** A word that a shell takes as it is. @param {string} text */
const shellWord = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** JSON in one line of a comment, whatever the arguments hold. @param {object} value */
const asciiJson = (value) =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** The command that makes data. @param {any} request */
const curation = ({ env_name: name, env_kwargs: args }) =>
  `verl-agent-env curate ${name} --train 10000 --test 100 --out data` +
  (args ? ` --env-kwargs ${shellWord(asciiJson(args))}` : '');

/** Texts to copy, by what they are, given a request and the server's address with a slash at its end.
 *
 * @type {Record<string, (request: any, server: string) => string>}
 */
export const COPIES = {
  Python: ({ env_name: name, seed, env_kwargs: args }, server) => `\
from verl_agent_env.client.remote_env import RemoteEnv

env = RemoteEnv("${server}", ${JSON.stringify(name)}${args ? `, env_kwargs=${pythonText(args)}` : ''})
observation, info = env.reset(${seed === undefined ? '' : `seed=${seed}`})
`,
  curl: (request, server) => `\
curl -s ${server}api/environment/initialize -H 'content-type: application/json' \\
  -d ${shellWord(JSON.stringify(request))}
`,
  'verl YAML': (request, server) => `\
# The data, and then a training with this file as train.yaml; MODEL and more are overrides of verl's settings:
#   ${curation(request)}
#   python -m verl.trainer.main_ppo --config-path "$PWD" --config-name train actor_rollout_ref.model.path=MODEL
# Beside it belongs agent_loop.yaml:
#   - name: env_agent
#     _target_: verl_agent_env.integrations.verl.rollout.agent_loop.EnvAgentLoop
hydra:
  searchpath:
    - pkg://verl.trainer.config

defaults:
  - ppo_trainer
  - _self_

data:
  train_files: data/train.parquet
  val_files: data/test.parquet
  return_raw_chat: true
  custom_cls:
    path: pkg://verl_agent_env.integrations.verl.rollout.dataset
    name: EnvDataset
  env:
    url: ${JSON.stringify(server.replace(/\/$/, ''))}

actor_rollout_ref:
  rollout:
    multi_turn:
      enable: true
      format: hermes
    agent:
      default_agent_loop: env_agent
      agent_loop_config_path: agent_loop.yaml
`,
};
