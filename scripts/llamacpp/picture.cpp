// Pictures of a size that is told, for the graph of a projector to be reserved for.
// Build: g++ -shared -fPIC -std=c++17 -I llama.cpp/tools/mtmd -I llama.cpp/include -I llama.cpp/ggml/include picture.cpp
//        -o libpicture.so -l:libmtmd.so
#include "clip.h"
#include "clip-impl.h"
#include <vector>

extern "C" __attribute__((visibility("default"))) int encode(clip_ctx * ctx, int wide, int high, int count) {
    clip_image_f32_batch batch;
    for (int i = 0; i < count; i++) {
        clip_image_f32 picture;
        picture.set_size({wide, high}, false, false);
        batch.entries.push_back(picture);
    }
    std::vector<float> out;
    return clip_image_batch_encode(ctx, 1, &batch, out);
}
