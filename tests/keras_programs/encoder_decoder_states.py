"""A translation model that is saved, loaded and cut into an encoder and a decoder with states."""

import numpy as np


def program(keras):
    r = np.random.default_rng(20)
    enc_tokens, dec_tokens, latent = 7, 8, 6
    enc_in = np.eye(enc_tokens, dtype="float32")[r.integers(0, enc_tokens, (24, 5))]
    ids = r.integers(0, dec_tokens, (24, 6))
    dec_in = np.eye(dec_tokens, dtype="float32")[ids]
    dec_out = np.eye(dec_tokens, dtype="float32")[np.roll(ids, -1, 1)]
    encoder_inputs = keras.Input(shape=(None, enc_tokens))
    encoder = keras.layers.LSTM(latent, return_state=True)
    _, state_h, state_c = encoder(encoder_inputs)
    encoder_states = [state_h, state_c]
    decoder_inputs = keras.Input(shape=(None, dec_tokens))
    decoder_lstm = keras.layers.LSTM(latent, return_sequences=True, return_state=True)
    decoder_outputs, _, _ = decoder_lstm(decoder_inputs, initial_state=encoder_states)
    decoder_dense = keras.layers.Dense(dec_tokens, activation="softmax")
    decoder_outputs = decoder_dense(decoder_outputs)
    model = keras.Model([encoder_inputs, decoder_inputs], decoder_outputs)
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    h = model.fit([enc_in, dec_in], dec_out, batch_size=8, epochs=2, validation_split=0.2, verbose=0, shuffle=False)
    model.save("s2s_model.keras")
    model = keras.models.load_model("s2s_model.keras")
    encoder_inputs = model.input[0]
    _, state_h_enc, state_c_enc = model.layers[2].output
    encoder_model = keras.Model(encoder_inputs, [state_h_enc, state_c_enc])
    decoder_inputs = model.input[1]
    s_h, s_c = keras.Input(shape=(latent,)), keras.Input(shape=(latent,))
    decoder_lstm = model.layers[3]
    decoder_outputs, s_h_dec, s_c_dec = decoder_lstm(decoder_inputs, initial_state=[s_h, s_c])
    decoder_dense = model.layers[4]
    decoder_outputs = decoder_dense(decoder_outputs)
    decoder_model = keras.Model([decoder_inputs, s_h, s_c], [decoder_outputs, s_h_dec, s_c_dec])
    states_value = encoder_model.predict(enc_in[:1], verbose=0)
    target = np.zeros((1, 1, dec_tokens))
    target[0, 0, 0] = 1.0
    said = []
    for _ in range(4):
        out, hh, cc = decoder_model.predict([target] + states_value, verbose=0)
        t = int(np.argmax(out[0, -1, :]))
        said.append(t)
        target = np.zeros((1, 1, dec_tokens))
        target[0, 0, t] = 1.0
        states_value = [hh, cc]
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "said": said,
        "out": out,
        "hh": hh,
        "weights": [str(w.shape) for w in model.weights],
    }
