# A thin door to CMakeLists.txt: node-gyp (and through it npm and prebuildify) runs CMake. Without CMake on the host, gyp itself compiles
# the same list of sources into the CPU addon.
{
  "variables": {
    "have_cmake%": "<!(node scripts/have_cmake.mjs)"
  },
  "targets": [
    {
      "target_name": "kvasir",
      "conditions": [
        ["have_cmake==1", {
          "type": "none",
          "actions": [
            {
              "action_name": "cmake",
              "inputs": ["CMakeLists.txt"],
              "outputs": ["<(PRODUCT_DIR)/kvasir.node"],
              "action": ["node", "scripts/cmake_build.mjs", "<(PRODUCT_DIR)"],
              "message": "CMake builds kvasir"
            }
          ]
        }, {
          "sources": ["<!@(node scripts/list_sources.mjs native/sources.txt)"],
          "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
          "defines": ["KVASIR_VERSION=\"<!(node -p \"require('./package.json').version\")\""],
          "cflags!": ["-O2"],
          "cflags_cc!": ["-std=gnu++14", "-std=gnu++17", "-std=gnu++20", "-fno-exceptions", "-fno-rtti"],
          "cflags": ["-O3", "-fvisibility=hidden"],
          "cflags_cc": ["-std=c++20", "-fexceptions", "-frtti", "-Wall", "-Wextra", "-Wno-restrict", "-fno-math-errno", "-fno-trapping-math",
                        "-fvisibility-inlines-hidden"],
          "conditions": [
            ["OS=='linux'", {
              "ldflags": ["-static-libstdc++", "-static-libgcc", "-Wl,--gc-sections", "-pthread",
                          "-Wl,--version-script=<(module_root_dir)/native/exports.map"],
              "libraries": ["-ldl"]
            }],
            ["OS=='mac'", {
              "xcode_settings": {
                "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
                "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
                "GCC_ENABLE_CPP_RTTI": "YES",
                "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
                "GCC_OPTIMIZATION_LEVEL": "3"
              }
            }]
          ]
        }]
      ]
    }
  ]
}
