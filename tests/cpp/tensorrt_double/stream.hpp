// The double's streams: what was queued on one, and what is being captured from it.
#pragma once

#include <functional>
#include <utility>
#include <vector>

struct CUstream_st {
    std::vector<std::function<void()>> work;
    std::vector<std::function<void()>> captured;
    bool capturing = false;
    bool invalid = false;  // something was done that no capture allows

    void add(std::function<void()> one) { (capturing ? captured : work).push_back(std::move(one)); }
};
